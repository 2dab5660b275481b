//! Zip archives: their directories, checksums and alignment.

use super::*;

/// Returns a zip archive with the given entries.
fn zip_archive(entries: &[(&str, &[u8])]) -> Vec<u8> {
    use std::io::Write;
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, bytes) in entries {
        let options = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
        zip.start_file(*name, options).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

#[test]
fn archives_are_read_whatever_the_length_of_the_name_that_they_were_saved_as() {
    let content = pickle_of("model", |p| write_tensor(p, "FloatStorage", "s", "cpu", 0, &[12], &[1]));
    let values = zero_to_eleven();
    for length in 1..=64 {
        let stem = "a".repeat(length);
        let names = ["data.pkl", "byteorder", "data/s", "version"].map(|name| format!("{stem}/{name}"));
        let entries = [&content[..], b"little", &values, b"3\n"];
        let entries: Vec<(&str, &[u8])> = names.iter().map(String::as_str).zip(entries).collect();
        for end_records_of_64_bits in [false, true] {
            let archive = archive_of_torch(&entries, end_records_of_64_bits);
            let file = read_bytes(&archive).unwrap_or_else(|e| panic!("{length}, {end_records_of_64_bits}: {e}"));
            assert_eq!(file.state.f32("w").unwrap()[11], 11.0, "{length}");
        }
    }
}

/// Returns a zip archive as PyTorch writes it: stored entries, with or without the end records of 64 bits, without anything before.
fn archive_of_torch(entries: &[(&str, &[u8])], end_records_of_64_bits: bool) -> Vec<u8> {
    let short = |value: usize| (value as u16).to_le_bytes();
    let long = |value: usize| (value as u32).to_le_bytes();
    let wide = |value: usize| (value as u64).to_le_bytes();
    let (mut file, mut directory) = (Vec::new(), Vec::new());
    for (name, bytes) in entries {
        let offset = file.len();
        let sizes = [long(0), long(bytes.len()), long(bytes.len())].concat();
        file.extend(
            [
                &b"PK\x03\x04"[..],
                &[0; 10],
                &sizes,
                &short(name.len()),
                &short(0),
                name.as_bytes(),
                bytes,
            ]
            .concat(),
        );
        directory.extend([&b"PK\x01\x02"[..], &[0; 12], &sizes, &short(name.len()), &[0; 12]].concat());
        directory.extend([&long(offset)[..], name.as_bytes()].concat());
    }
    let (start, count) = (file.len(), entries.len());
    file.extend(&directory);
    if end_records_of_64_bits {
        let end = file.len();
        file.extend([&b"PK\x06\x06"[..], &wide(44), &[0; 12]].concat());
        file.extend([wide(count), wide(count), wide(directory.len()), wide(start)].concat());
        file.extend([&b"PK\x06\x07"[..], &[0; 4], &wide(end), &long(1)].concat());
    }
    file.extend([&b"PK\x05\x06"[..], &[0; 4], &short(count), &short(count)].concat());
    file.extend([&long(directory.len())[..], &long(start), &[0; 2]].concat());
    file
}

/// Adds 1 to a byte at the beginning of the content of an entry.
fn alter(archive: &mut [u8], content: &[u8]) {
    let start = archive
        .windows(content.len())
        .position(|bytes| bytes == content)
        .unwrap();
    archive[start] = archive[start].wrapping_add(1);
}

/// Replaces the CRC-32 of every entry whose name contains `part`.
fn set_checksums(archive: &mut [u8], part: &str, change: impl Fn(u32) -> u32) {
    for start in 0..archive.len() - 46 {
        if !archive[start..].starts_with(b"PK\x01\x02") {
            continue;
        }
        let length = usize::from(u16::from_le_bytes([archive[start + 28], archive[start + 29]]));
        if String::from_utf8_lossy(&archive[start + 46..start + 46 + length]).contains(part) {
            let checksum = &mut archive[start + 16..start + 20];
            let old = u32::from_le_bytes(checksum.try_into().unwrap());
            checksum.copy_from_slice(&change(old).to_le_bytes());
        }
    }
}

#[test]
fn changed_values_are_unreadable_unless_the_writer_computed_no_checksums() {
    let mut pickle = Writer::new();
    pickle.empty_dict().text("model").empty_dict();
    for name in ["v", "w"] {
        pickle.text(name);
        write_tensor(&mut pickle, "FloatStorage", name, "cpu", 0, &[12], &[1]);
        pickle.set_item();
    }
    pickle.set_item();
    let content = pickle.finish();
    let (v, w) = (zero_to_eleven(), floats(&[7.5; 12]));
    let optimizer = floats(&[3.25; 5]);
    let sound = zip_archive(&[
        ("a/data.pkl", &content),
        ("a/data/v", &v),
        ("a/data/w", &w),
        ("a/data/optimizer", &optimizer),
        ("a/version", b"3\n"),
    ]);
    let unreadable = |archive: &[u8]| -> Vec<String> {
        let file = read_bytes(archive).unwrap();
        assert!(
            file.unreadable
                .values()
                .all(|problem| *problem == TensorProblem::Checksum)
        );
        assert_eq!(file.state.len() + file.unreadable.len(), 2);
        file.unreadable.keys().cloned().collect()
    };
    assert!(unreadable(&sound).is_empty());
    assert!(read_bytes(&sound).unwrap().summary.has_checksums);
    let mut damaged = sound.clone();
    alter(&mut damaged, &w);
    assert_eq!(unreadable(&damaged), ["w"]);
    // A storage of no tensor of the weights is not needed.
    let mut elsewhere = sound.clone();
    alter(&mut elsewhere, &optimizer);
    assert!(unreadable(&elsewhere).is_empty());
    // Without checksums (PyTorch writes 0), or with those of another kind in all entries, no tensor counts as damaged.
    for (part, change) in [
        ("", &(|_: u32| 0u32) as &dyn Fn(u32) -> u32),
        ("", &|old| old ^ 0x1234),
        ("data/", &|_: u32| 0u32),
    ] {
        let mut archive = damaged.clone();
        set_checksums(&mut archive, part, change);
        assert!(unreadable(&archive).is_empty());
        assert!(!read_bytes(&archive).unwrap().summary.has_checksums);
    }
    let mut pickle_changed = sound.clone();
    alter(&mut pickle_changed, b"model");
    let error = read_bytes(&pickle_changed).unwrap_err().to_string();
    assert!(error.contains("data.pkl does not have its checksum"), "{error}");
}

#[test]
fn reads_or_rejects_archives_of_other_programs() {
    let content = pickle_of("model", |p| write_tensor(p, "FloatStorage", "s", "cpu", 0, &[12], &[1]));
    let values = zero_to_eleven();
    // The directory may have any name or be missing; `byteorder` may be missing.
    for directory in ["", "archive/", "epoch=3/"] {
        let names = [format!("{directory}data.pkl"), format!("{directory}data/s")];
        let file = read_bytes(&zip_archive(&[(&names[0], &content), (&names[1], &values)])).unwrap();
        assert_eq!(file.state.get("w").unwrap().data.len(), 12);
    }
    let swapped: Vec<u8> = values.chunks(4).flat_map(|v| v.iter().rev().copied()).collect();
    let entries = [
        ("a/data.pkl", &content[..]),
        ("a/byteorder", b"big"),
        ("a/data/s", &swapped),
    ];
    let file = read_bytes(&zip_archive(&entries)).unwrap();
    assert_eq!(file.state.f32("w").unwrap()[11], 11.0);

    let script = zip_archive(&[
        ("a/data.pkl", &content),
        ("a/constants.pkl", b")."),
        ("a/data/s", &values),
    ]);
    assert!(matches!(read_bytes(&script), Err(Problem::TorchScript)));
    assert!(matches!(
        read_bytes(&zip_archive(&[("a/other", b"")])),
        Err(Problem::NoPickle)
    ));

    // Marks an entry as deflated: the method is a 16-bit field of the local and of the central header.
    let mut deflated = zip_archive(&[("a/data.pkl", &content), ("a/data/s", &values)]);
    for (signature, method_offset) in [(b"PK\x03\x04", 8), (b"PK\x01\x02", 10)] {
        let starts: Vec<_> = (0..deflated.len() - 4)
            .filter(|i| deflated[*i..].starts_with(signature))
            .collect();
        assert_eq!(starts.len(), 2);
        deflated[starts[1] + method_offset] = 8;
    }
    let error = read_bytes(&deflated).unwrap_err().to_string();
    assert!(error.contains("entry a/data/s of the archive is compressed"), "{error}");
}

#[test]
fn storages_are_aligned_to_64_bytes() {
    let mut state = StateDict::new();
    state.insert("a", StoredTensor::new(vec![3], TensorData::U8(vec![1, 2, 3])));
    state.insert("b", StoredTensor::f32([2], vec![1.0, 2.0]));
    let mut bytes = std::io::Cursor::new(Vec::new());
    write(&mut bytes, &state, &Style::Mae.into()).unwrap();
    let bytes = bytes.into_inner();
    let archive = archive::open(&bytes).unwrap();
    assert_eq!(archive.storages.storages.len(), 2);
    for values in archive.storages.storages.values().map(|storage| storage.bytes) {
        assert_eq!((values.as_ptr() as usize - bytes.as_ptr() as usize) % 64, 0);
    }
}
