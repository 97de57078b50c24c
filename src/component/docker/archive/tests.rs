use super::{FileKind, clean, is_below, kind_of};

#[test]
fn paths_are_cleaned_before_they_are_asked_for() {
    let table = [
        ("/data/f", Some("/data/f")),
        ("/data//./f/", Some("/data/f")),
        ("/data/../etc/passwd", Some("/etc/passwd")),
        ("/../../x", Some("/x")),
        ("/", Some("/")),
        ("data", None),
        ("", None),
        ("/a\0b", None),
    ];
    for (path, expected) in table {
        assert_eq!(clean(path).as_deref(), expected, "{path:?}");
    }
    assert_eq!(clean(&format!("/{}", "x".repeat(4096))), None);
}

#[test]
fn only_names_that_stay_below_are_below() {
    for good in ["f", "d/f", "..f", "f..", "a b"] {
        assert!(is_below(good), "{good}");
    }
    for bad in ["", "/f", "f/", "a//b", ".", "..", "a/../b", "a/.", "x\0y"] {
        assert!(!is_below(bad), "{bad:?}");
    }
}

#[test]
fn mode_bits_of_the_daemon_tell_the_kind() {
    let table = [
        (0o644, FileKind::File),
        (1 << 23 | 0o755, FileKind::File),
        (1 << 31 | 0o755, FileKind::Directory),
        (1 << 31 | 1 << 20 | 0o777, FileKind::Directory),
        (1 << 27 | 0o777, FileKind::Link),
        (1 << 25 | 0o600, FileKind::Special),
        (1 << 26 | 1 << 21 | 0o600, FileKind::Special),
        (1 << 24 | 0o755, FileKind::Special),
    ];
    for (mode, kind) in table {
        assert_eq!(kind_of(mode), kind, "{mode:#o}");
    }
}
