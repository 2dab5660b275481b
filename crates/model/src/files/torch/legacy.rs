//! The format of PyTorch before version 1.6: five consecutive pickles (magic number, protocol, system, content, list of storage
//! keys), then the storages. A storage consists of its number of values (64 bits) and the values, both little-endian.

use std::collections::HashMap;

use super::super::error::Problem;
use super::{Storage, Storages, tensor};
use vlct_pickle::{Pickle, Value};

/// `torch.serialization.MAGIC_NUMBER`.
const MAGIC: i128 = 0x1950_a86a_20f9_469c_fc6c;
/// `torch.serialization.PROTOCOL_VERSION`.
const PROTOCOL: i128 = 1001;
/// Upper bound of the size of the magic number's pickle in any protocol, in bytes.
const MAX_MAGIC_PICKLE: usize = 64;

/// Whether the bytes begin with a pickle of the magic number.
pub(in super::super) fn starts_with_magic(bytes: &[u8]) -> bool {
    let start = &bytes[..bytes.len().min(MAX_MAGIC_PICKLE)];
    vlct_pickle::parse(start).is_ok_and(|pickle| pickle.int(pickle.root()) == Some(MAGIC))
}

/// Reads the pickles and finds the storages without copying values.
pub(super) fn open(bytes: &[u8]) -> Result<(Pickle<'_>, Storages<'_>), Problem> {
    let mut rest = bytes;
    let magic = next_pickle(&mut rest)?;
    let protocol = next_pickle(&mut rest)?;
    if magic.int(magic.root()) != Some(MAGIC) {
        return Err(damaged("the magic number is missing"));
    }
    if protocol.int(protocol.root()) != Some(PROTOCOL) {
        return Err(damaged(format!(
            "protocol {}, expected {PROTOCOL}",
            protocol.describe(protocol.root())
        )));
    }
    // This pickle describes the machine that wrote the file. The values are little-endian on every machine.
    next_pickle(&mut rest)?;
    let content = next_pickle(&mut rest)?;
    let keys = next_pickle(&mut rest)?;
    let storage_keys = keys.items(keys.root()).ok_or_else(|| damaged("no list of storages"))?;

    let sizes = value_sizes(&content);
    let mut storages = HashMap::new();
    for key in storage_keys {
        let key = match keys.get(*key) {
            Value::Text(key) => key.to_string(),
            Value::Int(key) => key.to_string(),
            _ => return Err(damaged("a storage key is not text")),
        };
        let size = sizes.get(&key).copied();
        let size = size.ok_or_else(|| damaged(format!("storage {key:?} belongs to no tensor of a known type")))?;
        let truncated = || damaged(format!("storage {key:?} is truncated"));
        let (count, after) = rest.split_first_chunk::<8>().ok_or_else(truncated)?;
        let length = usize::try_from(i64::from_le_bytes(*count))
            .ok()
            .and_then(|n| n.checked_mul(size));
        let (values, after) = length
            .and_then(|length| after.split_at_checked(length))
            .ok_or_else(truncated)?;
        storages.insert(
            key,
            Storage {
                bytes: values,
                crc32: None,
            },
        );
        rest = after;
    }
    let storages = Storages {
        storages,
        big_endian: false,
    };
    Ok((content, storages))
}

fn damaged(reason: impl Into<String>) -> Problem {
    Problem::Legacy(reason.into())
}

/// Reads the pickle at the start of `rest` and removes it from `rest`.
fn next_pickle<'a>(rest: &mut &'a [u8]) -> Result<Pickle<'a>, Problem> {
    let pickle = vlct_pickle::parse(rest)?;
    *rest = &rest[pickle.length()..];
    Ok(pickle)
}

/// Returns the bytes per value of every storage that the content refers to, by key.
fn value_sizes(content: &Pickle) -> HashMap<String, usize> {
    let mut sizes = HashMap::new();
    for value in content.values() {
        if let Value::Persistent(id) = value
            && let Some(storage) = tensor::storage_id(content, *id)
            && let Some(size) = tensor::value_size(&storage.class)
        {
            sizes.insert(storage.key, size);
        }
    }
    sizes
}

/// Returns a checkpoint in the format before version 1.6: five pickles, then the storages, given as key, number of values and bytes.
#[cfg(test)]
pub(in super::super) fn legacy_file(content: &[u8], storages: &[(&str, i64, &[u8])]) -> Vec<u8> {
    let mut bytes = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}.".to_vec();
    bytes.extend(content);
    bytes.extend(b"\x80\x02](");
    for (key, _, _) in storages {
        bytes.extend([b"U", &[key.len() as u8][..], key.as_bytes()].concat());
    }
    bytes.extend(b"e.");
    for (_, count, values) in storages {
        bytes.extend(count.to_le_bytes());
        bytes.extend(*values);
    }
    bytes
}
