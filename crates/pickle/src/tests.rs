use proptest::prelude::*;

use std::borrow::Cow;

use super::*;

fn describe(bytes: &[u8]) -> String {
    let pickle = parse(bytes).unwrap();
    pickle.describe(pickle.root())
}

#[test]
fn reads_numbers() {
    for (bytes, want) in [
        (&b"K\xff."[..], Value::Int(255)),
        (b"M\xff\xff.", Value::Int(65535)),
        (b"J\xff\xff\xff\xff.", Value::Int(-1)),
        (b"\x80\x02\x8a\x00.", Value::Int(0)),
        (b"\x8a\x02\x00\x80.", Value::Int(-32768)),
        (b"\x8a\x02\xff\x00.", Value::Int(255)),
        (b"\x8b\x01\x00\x00\x00\x05.", Value::Int(5)),
        (b"I12\n.", Value::Int(12)),
        (b"I01\n.", Value::Bool(true)),
        (b"I00\n.", Value::Bool(false)),
        (b"L-7L\n.", Value::Int(-7)),
        (b"L170141183460469231731687303715884105728L\n.", Value::HugeInt),
        (b"F-2.5\n.", Value::Float(-2.5)),
        (b"G\x3f\xf8\0\0\0\0\0\0.", Value::Float(1.5)),
        (b"\x88.", Value::Bool(true)),
        (b"\x89.", Value::Bool(false)),
        (b"N.", Value::None),
    ] {
        let pickle = parse(bytes).unwrap();
        assert_eq!(*pickle.get(pickle.root()), want);
    }
    let mut huge = b"\x8a\x11".to_vec();
    huge.extend([0xff; 16]);
    huge.extend([0x00, b'.']);
    let pickle = parse(&huge).unwrap();
    assert_eq!(*pickle.get(pickle.root()), Value::HugeInt);
}

#[test]
fn reads_strings_and_bytes() {
    for (bytes, want) in [
        (&b"X\x02\0\0\0\xc3\xa9."[..], "é"),
        (b"\x8c\x01a.", "a"),
        (b"\x8d\x01\0\0\0\0\0\0\0a.", "a"),
        (b"U\x01a.", "a"),
        (b"T\x01\0\0\0a.", "a"),
        (b"S'a\\'\\n\\x41\\q'\n.", "a'\nA\\q"),
        (b"V\\u00e9\\U0001F600\xe9\n.", "é😀é"),
        (b"Vplain\r\n.", "plain"),
    ] {
        let pickle = parse(bytes).unwrap();
        assert_eq!(pickle.text(pickle.root()), Some(want));
    }
    for bytes in [
        &b"C\x02ab."[..],
        b"B\x02\0\0\0ab.",
        b"\x8e\x02\0\0\0\0\0\0\0ab.",
        b"\x96\x02\0\0\0\0\0\0\0ab.",
    ] {
        let pickle = parse(bytes).unwrap();
        assert_eq!(*pickle.get(pickle.root()), Value::Bytes(Cow::Borrowed(b"ab")));
    }
}

#[test]
fn reads_containers() {
    for (bytes, want) in [
        (&b")."[..], "[]"),
        (b"K\x01\x85.", "[1]"),
        (b"K\x01K\x02\x86.", "[1, 2]"),
        (b"K\x01K\x02K\x03\x87.", "[1, 2, 3]"),
        (b"(K\x01K\x02t.", "[1, 2]"),
        (b"(K\x01l.", "[1]"),
        (b"]K\x01a(K\x02K\x03e.", "[1, 2, 3]"),
        (b"(K\x01K\x02d.", "{1: 2}"),
        (b"}K\x01K\x02s(K\x03K\x04u.", "{1: 2, 3: 4}"),
        (b"\x8f(K\x01K\x02\x90.", "[1, 2]"),
        (b"(K\x01\x91.", "[1]"),
        // Stack: DUP, POP, POP of a mark, POP_MARK.
        (b"K\x012\x86.", "[1, 1]"),
        (b"K\x01K\x020.", "1"),
        (b"K\x01(0.", "1"),
        (b"K\x01(K\x02K\x031.", "1"),
        // Memo: text, byte and four-byte keys, and MEMOIZE.
        (b"K\x07p5\n0g5\n.", "7"),
        (b"K\x07q\x050h\x05.", "7"),
        (b"K\x07r\x05\0\0\x000j\x05\0\0\0.", "7"),
        (b"\x80\x04\x95\0\0\0\0\0\0\0\0K\x07\x940h\0.", "7"),
    ] {
        assert_eq!(describe(bytes), want, "{bytes:?}");
    }
}

#[test]
fn callables_are_not_called() {
    for bytes in [
        &b"cos\nsystem\n(X\x06\0\0\0reboottR."[..],
        b"(X\x02\0\0\0rmios\nsystem\n.",
        b"(cos\nsystem\nX\x02\0\0\0rmo.",
        b"\x8c\x02os\x8c\x06system\x93)\x81.",
        b"cos\nsystem\n)}\x92.",
    ] {
        let pickle = parse(bytes).unwrap();
        assert_eq!(
            pickle.callable(pickle.root()).as_deref(),
            Some("os.system"),
            "{bytes:?}"
        );
        assert!(pickle.describe(pickle.root()).starts_with("os.system("));
    }
    assert_eq!(describe(b"cos\nsystem\n(X\x06\0\0\0reboottR."), "os.system(\"reboot\")");
    assert_eq!(describe(b"\x82\x05."), "copyreg.extension 5");
}

#[test]
fn objects_record_items_entries_and_state() {
    // A subclass of list with two items and a state.
    let pickle = parse(b"clib\nReadOnlyList\n)\x81(K\x01K\x02e}b.").unwrap();
    let object = pickle.object(pickle.root()).unwrap();
    assert_eq!(object.items.len(), 2);
    assert!(object.state.is_some());
    assert_eq!(pickle.describe(pickle.root()), "[1, 2]");
    // Ordered dictionaries: entries added one by one, or passed as pairs (Python 2).
    for bytes in [
        &b"ccollections\nOrderedDict\n)RX\x01\0\0\0aK\x01s."[..],
        b"ccollections\nOrderedDict\n(](]X\x01\0\0\0aaK\x01aetR.",
    ] {
        let pickle = parse(bytes).unwrap();
        let entries = pickle.entries(pickle.root()).unwrap();
        let [(key, value)] = entries.as_slice() else {
            panic!("{entries:?}")
        };
        assert_eq!((pickle.text(*key), pickle.int(*value)), (Some("a"), Some(1)));
    }
    let pickle = parse(b"(X\x07\0\0\0storageK\x00tQ.").unwrap();
    let Value::Persistent(id) = *pickle.get(pickle.root()) else {
        panic!()
    };
    assert_eq!(pickle.describe(id), "[\"storage\", 0]");
    assert!(matches!(
        parse(b"Pid\n.").unwrap().values().last(),
        Some(Value::Persistent(_))
    ));
}

#[test]
fn error_messages_state_the_cause() {
    for (bytes, want) in [
        (&b""[..], "the pickle ends too early, at byte 0"),
        (b"K", "the pickle ends too early, at byte 1"),
        (b"X\xff\xff\xff\xff.", "the pickle ends too early, at byte 6"),
        (
            b"\x8e\xff\xff\xff\xff\xff\xff\xff\xff.",
            "the pickle ends too early, at byte 10",
        ),
        (
            b"\x80\x09.",
            "the pickle uses protocol 9, but only 0 to 5 are supported",
        ),
        (b"\xff", "byte 0 of the pickle (0xff) is not an opcode"),
        (
            b".",
            "the instruction at byte 0 of the pickle takes a value from an empty stack",
        ),
        (
            b"K\x01(0\x86.",
            "the instruction at byte 4 of the pickle takes a value from an empty stack",
        ),
        (
            b"K\x01(\x85.",
            "the instruction at byte 3 of the pickle takes a value from an empty stack",
        ),
        (
            b"(o.",
            "the instruction at byte 1 of the pickle takes a value from an empty stack",
        ),
        (
            b"t",
            "the instruction at byte 0 of the pickle needs a mark, but there is none on the stack",
        ),
        (
            b"h\x03",
            "the instruction at byte 0 of the pickle reads memo entry 3, which was not written",
        ),
        (
            b"(Nd",
            "the instruction at byte 2 of the pickle has a malformed dictionary: a key without a value",
        ),
        (
            b"T\xff\xff\xff\xff",
            "the instruction at byte 0 of the pickle has a malformed length",
        ),
        (
            b"Ixy\n.",
            "the instruction at byte 0 of the pickle has a malformed number",
        ),
        (
            b"S'a\n.",
            "the instruction at byte 0 of the pickle has a malformed string",
        ),
        (
            b"NNa.",
            "the instruction at byte 2 of the pickle adds items to a value that is not a container",
        ),
        (
            b"NNNs.",
            "the instruction at byte 3 of the pickle adds items to a value that is not a container",
        ),
        (
            b"\x97.",
            "the instruction at byte 0 of the pickle refers to a buffer outside the file",
        ),
    ] {
        assert_eq!(parse(bytes).unwrap_err().to_string(), want, "{bytes:?}");
    }
}

#[test]
fn cycles_and_deep_nesting_do_not_overflow_the_stack() {
    // A list that contains itself.
    let text = describe(b"]q\x00h\x00a.");
    assert!(text.contains('…'), "{text}");
    // A million nested lists.
    let mut deep = b"]".repeat(1 << 20);
    deep.extend(b"a".repeat((1 << 20) - 1));
    deep.push(b'.');
    let pickle = parse(&deep).unwrap();
    assert_eq!(pickle.values().len(), 1 << 20);
    assert!(pickle.describe(pickle.root()).contains('…'));
    drop(pickle);
}

#[test]
fn rejects_pickles_beyond_the_limits() {
    let mut values = b"N".repeat(MAX_VALUES + 1);
    values.push(b'.');
    assert_eq!(
        parse(&values).unwrap_err(),
        PickleError::TooMany {
            what: "values",
            limit: MAX_VALUES
        }
    );
    let marks = b"(".repeat(MAX_STACK + 1);
    assert!(matches!(parse(&marks), Err(PickleError::TooMany { what: "marks", .. })));
    let mut copies = b"N".to_vec();
    copies.extend(b"2".repeat(MAX_STACK));
    assert!(matches!(
        parse(&copies),
        Err(PickleError::TooMany { limit: MAX_STACK, .. })
    ));
    // The description of a long text is truncated.
    let mut long = b"X\x00\x00\x10\x00".to_vec();
    long.extend(b"x".repeat(1 << 20));
    long.push(b'.');
    assert!(describe(&long).len() < 2 * MAX_DESCRIPTION);
}

#[test]
fn written_pickles_round_trip() {
    let numbers = [
        0,
        255,
        256,
        65535,
        65536,
        -1,
        i64::from(i32::MAX) + 1,
        i64::MIN,
        i64::MAX,
    ];
    let mut writer = Writer::new();
    writer.mark();
    for number in numbers {
        writer.int(number);
    }
    writer
        .bool(true)
        .text("é")
        .empty_tuple()
        .empty_dict()
        .text("k")
        .bool(false)
        .set_item();
    writer
        .global("a", "b")
        .empty_tuple()
        .reduce()
        .global("a", "b")
        .int(1)
        .persistent();
    writer.tuple();
    let bytes = writer.finish();
    let pickle = parse(&bytes).unwrap();
    assert_eq!(pickle.length(), bytes.len());
    let items = pickle.items(pickle.root()).unwrap();
    for (item, number) in items.iter().zip(numbers) {
        assert_eq!(pickle.int(*item), Some(number.into()));
    }
    let rest: Vec<String> = items[numbers.len()..]
        .iter()
        .map(|item| pickle.describe(*item))
        .collect();
    assert_eq!(rest, ["true", "\"é\"", "[]", "{k: false}", "a.b()", "a.b", "a storage"]);
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        if let Ok(pickle) = parse(&bytes) {
            pickle.describe(pickle.root());
        }
    }

    /// Sequences of instructions are valid pickles more often than random bytes are.
    #[test]
    fn arbitrary_instructions_never_panic(
        parts in prop::collection::vec(
            prop::sample::select(vec![
                &b"("[..], b".", b"0", b"1", b"2", b"N", b"K\x01", b"X\x01\0\0\0a", b"]", b"}", b")", b"\x8f", b"a", b"e", b"s",
                b"u", b"t", b"l", b"d", b"R", b"b", b"Q", b"o", b"cos\nsystem\n", b"ia\nb\n", b"q\x00", b"h\x00", b"q\x01",
                b"h\x01", b"\x94", b"\x81", b"\x92", b"\x93", b"\x85", b"\x86", b"\x87", b"\x90", b"\x91",
                b"ccollections\nOrderedDict\n",
            ]),
            0..200,
        )
    ) {
        let mut bytes = parts.concat();
        bytes.push(b'.');
        if let Ok(pickle) = parse(&bytes) {
            pickle.describe(pickle.root());
            for i in 0..pickle.values().len() {
                pickle.entries(Ref(i as u32));
            }
        }
    }
}
