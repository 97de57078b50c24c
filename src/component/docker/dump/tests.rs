use bytes::Bytes;

use super::{HeldBack, NONCE_LEN, TAIL_MOST, Tail};

#[test]
fn what_is_held_back_is_never_less_than_a_nonce() {
    for piece in [1, 3, NONCE_LEN - 1, NONCE_LEN, NONCE_LEN + 1, 1000] {
        let all: Vec<u8> = (0..1000u32).map(|i| u8::try_from(i % 251).unwrap()).collect();
        let mut held = HeldBack::default();
        let mut out = Vec::new();
        for bytes in all.chunks(piece) {
            held.push(Bytes::copy_from_slice(bytes));
            while let Some(bytes) = held.pop() {
                out.extend_from_slice(&bytes);
            }
            assert!(held.len >= NONCE_LEN.min(held.len + out.len()), "{piece}");
            assert!(held.len < NONCE_LEN + piece, "{piece}: more is held than needed");
        }
        let rest = held.rest();
        assert!(rest.len() >= NONCE_LEN);
        out.extend_from_slice(&rest);
        assert_eq!(out, all);
    }
}

#[test]
fn tail_is_the_end_and_is_bounded() {
    let mut tail = Tail::default();
    for i in 0..100_000 {
        tail.push(format!("line {i}\n").as_bytes());
        assert!(tail.0.len() <= 2 * TAIL_MOST + 20);
    }
    let text = tail.text();
    assert!(text.ends_with("line 99998\nline 99999") && text.len() >= TAIL_MOST - 1);
    let mut tail = Tail::default();
    tail.push(b"\xffshort\n");
    assert_eq!(tail.text(), "\u{fffd}short");
}
