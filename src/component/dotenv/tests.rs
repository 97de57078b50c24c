use proptest::prelude::{any, prop, prop_assert_eq, proptest};

use super::{Dotenv, Doubt, Error, Warning};

/// What a line means for the variable `A`.
#[derive(Debug, PartialEq, Eq)]
enum Means {
    Is(&'static str),
    Unset,
    Doubt(Doubt),
    Nothing,
    Broken,
}

use Means::{Broken, Is, Nothing, Unset};

const TABLE: [(&str, Means); 63] = [
    ("A=b", Is("b")),
    ("  A=b  ", Is("b")),
    ("export A=b", Is("b")),
    ("export\tA=b", Is("b")),
    ("exportA=b", Nothing),
    ("A=", Unset),
    ("A=   ", Unset),
    ("A=\"\"", Unset),
    ("A=''", Unset),
    ("A=\"b\"", Is("b")),
    ("A='b'", Is("b")),
    ("A='b c'", Is("b c")),
    ("A=\"b c\" # why", Is("b c")),
    ("A='b'\t# why", Is("b")),
    ("A='$b `c` \\d'", Is("$b `c` \\d")),
    ("A='#b'", Is("#b")),
    ("A=\"b#c\"", Is("b#c")),
    ("A=b#c", Is("b#c")),
    ("A=a=b==", Is("a=b==")),
    ("A=http://host:9000/x?y=1", Is("http://host:9000/x?y=1")),
    ("A=p@ss%w0rd!*{}[]^,.+-_/~x", Is("p@ss%w0rd!*{}[]^,.+-_/~x")),
    ("A=ключ", Is("ключ")),
    ("A=\"say \\\"b\\\" \\\\\"", Is("say \"b\" \\")),
    ("A=\"it's\"", Is("it's")),
    ("A='say \"b\"'", Is("say \"b\"")),
    ("A='one\ntwo'\nB=c", Is("one\ntwo")),
    ("A=\"one\n# no comment\"", Is("one\n# no comment")),
    ("\u{feff}A=b", Is("b")),
    ("A=b\r\nB=c\r\n", Is("b")),
    ("A=b\nA=c", Is("c")),
    ("A=b\nA=", Unset),
    ("A=$b", Means::Doubt(Doubt::Expansion)),
    ("A=b\nA=$c", Means::Doubt(Doubt::Expansion)),
    ("A=\"b$\"", Means::Doubt(Doubt::Expansion)),
    ("A=`id`", Means::Doubt(Doubt::Expansion)),
    ("A=\"`id`\"", Means::Doubt(Doubt::Expansion)),
    ("A=b # why", Means::Doubt(Doubt::Space)),
    ("A=b c", Means::Doubt(Doubt::Space)),
    ("A= b", Means::Doubt(Doubt::Space)),
    ("A =b", Means::Doubt(Doubt::Space)),
    ("A = 'b'", Means::Doubt(Doubt::Space)),
    ("A=b\\c", Means::Doubt(Doubt::Backslash)),
    ("A=\"b\\n\"", Means::Doubt(Doubt::Backslash)),
    ("A=\"b\\$c\"", Means::Doubt(Doubt::Backslash)),
    ("A=b\"c\"", Means::Doubt(Doubt::Quote)),
    ("A=\"b\"c", Means::Doubt(Doubt::Quote)),
    ("A='b''c'", Means::Doubt(Doubt::Quote)),
    ("A=\"b\"#c", Means::Doubt(Doubt::Quote)),
    ("A=b;id", Means::Doubt(Doubt::Shell)),
    ("A=b&c", Means::Doubt(Doubt::Shell)),
    ("A=#b", Means::Doubt(Doubt::Shell)),
    ("A=~/b", Means::Doubt(Doubt::Shell)),
    ("A: b", Means::Doubt(Doubt::Colon)),
    ("A=b\u{1}", Means::Doubt(Doubt::Control)),
    ("A=b\rc", Means::Doubt(Doubt::Space)),
    ("A", Nothing),
    ("# A=b", Nothing),
    ("A B=c", Nothing),
    ("=b", Nothing),
    ("", Nothing),
    ("A='b", Broken),
    ("A=\"b\\\"", Broken),
    ("A='b\\'c'", Broken),
];

#[test]
fn every_kind_of_line_has_its_value_or_its_refusal() {
    for (text, expected) in &TABLE {
        let found = match Dotenv::parse(text.as_bytes()) {
            Err(Error::OpenQuote { line: 1 }) => Broken,
            Err(error) => panic!("{text:?}: {error}"),
            Ok(dotenv) if dotenv.entries().iter().all(|entry| entry.name != "A") => Nothing,
            Ok(dotenv) => match (dotenv.get("A"), expected) {
                (Ok(Some((value, _))), Is(expected)) if value.expose() == *expected => continue,
                (Ok(Some((value, _))), _) => panic!("{text:?} is {:?}", value.expose()),
                (Ok(None), _) => Unset,
                (Err(Error::Doubtful { doubt, .. }), _) => Means::Doubt(doubt),
                (Err(error), _) => panic!("{text:?}: {error}"),
            },
        };
        assert_eq!(&found, expected, "{text:?}");
    }
}

#[test]
fn shell_reads_every_certain_value_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("env");
    for (text, expected) in &TABLE {
        // A shell keeps carriage returns, and takes the mark of a Windows editor for a part of the name.
        if text.contains(['\r', '\u{feff}']) {
            continue;
        }
        let Is(expected) = expected else { continue };
        std::fs::write(&path, text).unwrap();
        let mut shell = std::process::Command::new("sh");
        let read = shell.args(["-c", ". \"$1\"; printf %s \"$A\"", "sh"]).arg(&path).output().unwrap();
        assert_eq!(String::from_utf8(read.stdout).unwrap(), *expected, "{text:?}");
    }
}

#[test]
fn what_is_odd_is_told_with_its_line() {
    let text = b"A=1\r\nwhat is this\r\nB='x\r\ny'\r\nA=2\r\n\r\nC=$x\r\n";
    let dotenv = Dotenv::parse(text).unwrap();
    let duplicate = Warning::Duplicate { name: "A".to_owned(), earlier: 1, line: 5 };
    assert_eq!(dotenv.warnings(), [Warning::CarriageReturns, Warning::NoAssignment { line: 2 }, duplicate]);
    let (value, line) = dotenv.get("B").unwrap().unwrap();
    assert_eq!((value.expose(), line), ("x\ny", 3));
    let doubtful = Error::Doubtful { name: "C".to_owned(), line: 7, doubt: Doubt::Expansion };
    assert_eq!(dotenv.get("C").err(), Some(doubtful));
    assert_eq!(dotenv.get("D").map(|found| found.is_some()), Ok(false));
}

#[test]
fn what_is_not_text_is_refused_with_its_line() {
    assert_eq!(Dotenv::parse(b"A=1\nB=\xff\n").err(), Some(Error::NotText { line: 2 }));
    assert_eq!(Dotenv::parse(b"A=1\n\nB=\0\n").err(), Some(Error::NotText { line: 3 }));
    assert_eq!(Dotenv::parse(&vec![b'\n'; (1 << 20) + 1]).err(), Some(Error::TooLong));
}

fn certain(dotenv: &Dotenv) -> Vec<(String, String)> {
    let certain = dotenv.entries().iter().filter(|entry| entry.doubt.is_none());
    certain.map(|entry| (entry.name.clone(), entry.value.expose().to_owned())).collect()
}

proptest! {
    #[test]
    fn what_is_rendered_is_parsed_the_same(lines in prop::collection::vec("(export )?[AB][ :=]{1,2}['\"]?[ab$`\\\\#;'\"\n\t ~é]{0,8}['\"]?", 0..6)) {
        if let Ok(dotenv) = Dotenv::parse(lines.join("\n").as_bytes()) {
            let again = Dotenv::parse(dotenv.render().expose().as_bytes()).unwrap();
            prop_assert_eq!(certain(&again), certain(&dotenv));
            assert!(again.entries().iter().all(|entry| entry.doubt.is_none()));
        }
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Dotenv::parse(&bytes);
    }
}
