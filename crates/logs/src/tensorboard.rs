//! TensorBoard event files.
//!
//! A file is a sequence of TFRecords: length (u64), masked CRC-32C of the length, bytes, masked CRC-32C of the bytes,
//! all little-endian. The bytes are a protocol-buffer `Event` (tensorflow/core/util/event.proto) with these fields:
//!
//! ```text
//! Event      { 1: double wall_time  2: int64 step  3: string file_version  5: Summary summary  7: SessionLog session_log }
//! Summary    { 1: repeated Value value }      Value { 1: string tag  2: float simple_value }
//! SessionLog { 1: enum status (START = 1) }
//! ```

use std::{
    fs, io,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use super::append::{AppendFile, Result, log_error};

/// Prefix of the names of event files.
const FILE_PREFIX: &str = "events.out.tfevents.";

/// Writer of one event file.
#[derive(Debug)]
pub struct EventWriter {
    file: AppendFile,
}

impl EventWriter {
    /// Creates `<run>/events.out.tfevents.{unix time}.{host}.{process}`.
    ///
    /// # Errors
    /// Returns an error if the directory cannot be read or the file cannot be written.
    pub fn create(run: &Path) -> Result<Self> {
        let time = file_time(run).map_err(|source| log_error(run, "started", source))?;
        let name = format!("{FILE_PREFIX}{time:010}.{}.{}", host(), std::process::id());
        let mut file = AppendFile::open(&run.join(name))?;
        file.append(&tfrecord(&version_event(now())))?;
        Ok(Self { file })
    }

    /// Writes an event which says that training continues after optimiser step `step`. TensorBoard then ignores later steps
    /// in the other event files of the directory.
    ///
    /// # Errors
    /// Returns an error if the file cannot be written.
    pub fn restart(&mut self, step: u64) -> Result<()> {
        self.file.append(&tfrecord(&start_event(now(), step.saturating_add(1))))
    }

    /// Appends `values` and the scalar `epoch` at optimiser step `step`, in one record.
    ///
    /// # Errors
    /// Returns an error if the file cannot be written. A partial record is removed.
    pub fn append_scalars(&mut self, step: u64, epoch: u64, values: &[(&str, f64)]) -> Result<()> {
        self.file.append(&tfrecord(&scalar_event(now(), step, epoch, values)))
    }
}

/// Returns the later of two Unix times in seconds: now, and one second after the latest time in the names of the directory's event
/// files. TensorBoard reads files in the order of their names, and the file of a resumed run must be the last one.
fn file_time(run: &Path) -> io::Result<u64> {
    let mut time = now() as u64;
    for entry in fs::read_dir(run)? {
        let name = entry?.file_name();
        let other_time = name
            .to_string_lossy()
            .strip_prefix(FILE_PREFIX)
            .and_then(|rest| rest.split('.').next()?.parse().ok());
        time = other_time.map_or(time, |other: u64| time.max(other.saturating_add(1)));
    }
    Ok(time)
}

fn now() -> f64 {
    // A clock before 1970 gives 0 instead of an error.
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs_f64()
}

/// Returns the host name without characters that are unsafe in file names.
fn host() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname")
        .or_else(|_| std::env::var("HOSTNAME"))
        .or_else(|_| std::env::var("COMPUTERNAME"))
        .unwrap_or_default();
    let name: String = name
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
        .take(64)
        .collect();
    if name.is_empty() { "localhost".into() } else { name }
}

/// Returns the TFRecord of an event.
fn tfrecord(event: &[u8]) -> Vec<u8> {
    let length = (event.len() as u64).to_le_bytes();
    let mut bytes = Vec::with_capacity(event.len() + 16);
    bytes.extend_from_slice(&length);
    bytes.extend_from_slice(&masked_crc(&length).to_le_bytes());
    bytes.extend_from_slice(event);
    bytes.extend_from_slice(&masked_crc(event).to_le_bytes());
    bytes
}

/// Returns TensorFlow's masked CRC-32C: the CRC is rotated, then a constant is added (tensorflow/core/lib/hash/crc32c.h).
fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

fn version_event(time: f64) -> Vec<u8> {
    let mut event = Message::default();
    event.push_double(1, time);
    event.push_bytes(3, b"brain.Event:2");
    event.0
}

fn start_event(time: f64, step: u64) -> Vec<u8> {
    let mut session = Message::default();
    session.push_varint(1, 1);
    let mut event = Message::default();
    event.push_double(1, time);
    event.push_varint(2, step);
    event.push_bytes(7, &session.0);
    event.0
}

fn scalar_event(time: f64, step: u64, epoch: u64, values: &[(&str, f64)]) -> Vec<u8> {
    let mut summary = Message::default();
    for &(tag, number) in values.iter().chain(&[("epoch", epoch as f64)]) {
        let mut value = Message::default();
        value.push_bytes(1, tag.as_bytes());
        value.push_float(2, number as f32);
        summary.push_bytes(1, &value.0);
    }
    let mut event = Message::default();
    event.push_double(1, time);
    event.push_varint(2, step);
    event.push_bytes(5, &summary.0);
    event.0
}

/// The bytes of a protocol-buffer message.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn push_key(&mut self, field: u64, wire_type: u64) {
        self.push_raw_varint(field << 3 | wire_type);
    }

    fn push_raw_varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn push_varint(&mut self, field: u64, value: u64) {
        self.push_key(field, 0);
        self.push_raw_varint(value);
    }

    fn push_double(&mut self, field: u64, value: f64) {
        self.push_key(field, 1);
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn push_float(&mut self, field: u64, value: f32) {
        self.push_key(field, 5);
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn push_bytes(&mut self, field: u64, value: &[u8]) {
        self.push_key(field, 2);
        self.push_raw_varint(value.len() as u64);
        self.0.extend_from_slice(value);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tempfile::TempDir;

    use super::*;

    /// Computes the CRC-32C bit by bit from its definition (reflected polynomial 0x82f63b78).
    fn crc32c_by_definition(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(!0u32, |crc, &byte| {
            (0..8).fold(crc ^ u32::from(byte), |crc, _| crc >> 1 ^ (0x82f6_3b78 * (crc & 1)))
        })
    }

    fn assert_checksum(bytes: &[u8], stored: &[u8]) {
        let crc = crc32c_by_definition(bytes);
        let masked = ((u64::from(crc) << 17) | u64::from(crc >> 15)) as u32;
        let masked = masked.wrapping_add(0xa282_ead8);
        assert_eq!(stored, masked.to_le_bytes());
    }

    /// Splits a file into events.
    fn split_events(mut file: &[u8]) -> Vec<Vec<u8>> {
        let mut events = Vec::new();
        while !file.is_empty() {
            let length = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
            assert_checksum(&file[..8], &file[8..12]);
            let event = &file[12..12 + length];
            assert_checksum(event, &file[12 + length..16 + length]);
            events.push(event.to_vec());
            file = &file[16 + length..];
        }
        events
    }

    #[derive(Debug, PartialEq)]
    enum Field {
        Varint(u64),
        Double(f64),
        Float(f32),
        Bytes(Vec<u8>),
    }

    /// Splits a message into the number and value of each field.
    fn fields(mut message: &[u8]) -> Vec<(u64, Field)> {
        fn varint(message: &mut &[u8]) -> u64 {
            let mut value = 0;
            for shift in (0..).step_by(7) {
                let byte = message[0];
                *message = &message[1..];
                value |= u64::from(byte & 0x7f) << shift;
                if byte < 0x80 {
                    break;
                }
            }
            value
        }
        fn take<'a>(message: &mut &'a [u8], count: usize) -> &'a [u8] {
            let (bytes, rest) = message.split_at(count);
            *message = rest;
            bytes
        }
        let mut found = Vec::new();
        while !message.is_empty() {
            let key = varint(&mut message);
            let value = match key & 7 {
                0 => Field::Varint(varint(&mut message)),
                1 => Field::Double(f64::from_le_bytes(take(&mut message, 8).try_into().unwrap())),
                5 => Field::Float(f32::from_le_bytes(take(&mut message, 4).try_into().unwrap())),
                2 => {
                    let length = varint(&mut message) as usize;
                    Field::Bytes(take(&mut message, length).to_vec())
                }
                other => panic!("wire type {other}"),
            };
            found.push((key >> 3, value));
        }
        found
    }

    /// Returns step and (tag, value) pairs of a scalar event.
    fn scalars(event: &[u8]) -> (u64, Vec<(String, f32)>) {
        let event = fields(event);
        let [
            (1, Field::Double(_)),
            (2, Field::Varint(step)),
            (5, Field::Bytes(summary)),
        ] = &event[..]
        else {
            panic!("{event:?}");
        };
        let values = fields(summary).into_iter().map(|(_, value)| {
            let Field::Bytes(value) = value else { panic!() };
            let value = fields(&value);
            let [(1, Field::Bytes(tag)), (2, Field::Float(number))] = &value[..] else {
                panic!("{value:?}");
            };
            (String::from_utf8(tag.clone()).unwrap(), *number)
        });
        (*step, values.collect())
    }

    #[test]
    fn events_and_checksums_have_the_expected_bytes() {
        // The checksum of the digits 1 to 9 is from the CRC catalogue; the masked value is computed from it by hand.
        assert_eq!(crc32c_by_definition(b"123456789"), 0xe306_9283);
        assert_eq!(masked_crc(b"123456789"), 0xc78a_b0e5);
        let event = version_event(1.0);
        let mut expected = vec![0x09, 0, 0, 0, 0, 0, 0, 0xf0, 0x3f, 0x1a, 13];
        expected.extend_from_slice(b"brain.Event:2");
        assert_eq!(event, expected);
        let event = scalar_event(1.0, 300, 2, &[("a", 0.5)]);
        let expected = [
            &[0x09, 0, 0, 0, 0, 0, 0, 0xf0, 0x3f, 0x10, 0xac, 0x02, 0x2a, 24][..],
            &[0x0a, 8, 0x0a, 1, b'a', 0x15, 0, 0, 0, 0x3f],
            &[0x0a, 12, 0x0a, 5, b'e', b'p', b'o', b'c', b'h', 0x15, 0, 0, 0, 0x40],
        ];
        assert_eq!(event, expected.concat());
        assert_eq!(&start_event(1.0, 7)[9..], [0x10, 7, 0x3a, 2, 0x08, 1]);
    }

    #[test]
    fn event_files_contain_version_start_and_scalars() {
        let run = TempDir::new().unwrap();
        let mut writer = EventWriter::create(run.path()).unwrap();
        writer.restart(40).unwrap();
        writer
            .append_scalars(41, 1, &[("mlm/train/loss", 5.25), ("mlm/train/accuracy", f64::NAN)])
            .unwrap();
        let entry = fs::read_dir(run.path()).unwrap().next().unwrap().unwrap();
        let name = entry.file_name().into_string().unwrap();
        let parts: Vec<&str> = name.strip_prefix(FILE_PREFIX).unwrap().split('.').collect();
        assert_eq!(parts.len(), 3, "{name}");
        assert_eq!(parts[2], std::process::id().to_string());
        let events = split_events(&fs::read(entry.path()).unwrap());
        assert_eq!(events.len(), 3);
        assert_eq!(fields(&events[0])[1], (3, Field::Bytes(b"brain.Event:2".to_vec())));
        assert_eq!(
            fields(&events[1])[1..],
            [(2, Field::Varint(41)), (7, Field::Bytes(vec![8, 1]))]
        );
        let (step, values) = scalars(&events[2]);
        assert_eq!(step, 41);
        assert_eq!(values[0], ("mlm/train/loss".into(), 5.25));
        assert!(values[1].1.is_nan());
        assert_eq!(values[2], ("epoch".into(), 1.0));
    }

    #[test]
    fn files_created_within_a_second_have_different_names() {
        let run = TempDir::new().unwrap();
        for _ in 0..3 {
            EventWriter::create(run.path()).unwrap();
        }
        assert_eq!(fs::read_dir(run.path()).unwrap().count(), 3);
    }

    proptest! {
        #[test]
        fn written_scalars_are_read_unchanged(step in any::<u64>(), values in prop::collection::vec((".{0,200}", -1e30..1e30f64), 0..3)) {
            let values: Vec<(&str, f64)> = values.iter().map(|(tag, value)| (tag.as_str(), *value)).collect();
            let (read_step, mut read) = scalars(&split_events(&tfrecord(&scalar_event(0.0, step, 3, &values)))[0]);
            prop_assert_eq!(read_step, step);
            prop_assert_eq!(read.pop(), Some(("epoch".to_string(), 3.0)));
            let expected: Vec<(String, f32)> = values.iter().map(|&(tag, value)| (tag.into(), value as f32)).collect();
            prop_assert_eq!(read, expected);
        }
    }
}
