//! Annotation files: JSON read value by value, so that memory holds what is kept and not the file.

use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::marker::PhantomData;
use std::path::Path;

use serde::de::{DeserializeOwned, DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Deserializer;

use crate::{DataError, Result};
use vlct_util::IoError;

/// Calls `each` with every element of the array that the file consists of.
///
/// # Errors
/// A file that is missing, cut short, no JSON or of another form; what `each` refuses, with the number of the element.
pub fn each_of_array<T: DeserializeOwned>(path: &Path, each: impl FnMut(T) -> Result<(), String>) -> Result<()> {
    read(path, Elements(each, PhantomData))
}

/// Calls `each` with every element of the array under `key` of the object that the file consists of.
///
/// # Errors
/// As [`each_of_array`].
pub fn each_of_field<T: DeserializeOwned>(
    path: &Path,
    key: &'static str,
    each: impl FnMut(T) -> Result<(), String>,
) -> Result<()> {
    read(path, Field(key, Elements(each, PhantomData)))
}

/// Calls `each` with the value on every line of the file that is not blank.
///
/// # Errors
/// As [`each_of_array`]; the place is a line.
pub fn each_line<T: DeserializeOwned>(path: &Path, mut each: impl FnMut(T) -> Result<(), String>) -> Result<()> {
    let mut reader = open(path)?;
    let mut line = Vec::new();
    for number in 1u64.. {
        line.clear();
        let read = reader.read_until(b'\n', &mut line).map_err(|e| io(path, e))?;
        if read == 0 {
            break;
        }
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let value = serde_json::from_slice(&line).map_err(|e| e.to_string());
        value.and_then(&mut each).map_err(|reason| DataError::Format {
            path: path.to_path_buf(),
            reason: format!("line {number}: {reason}"),
        })?;
    }
    Ok(())
}

fn open(path: &Path) -> Result<BufReader<File>> {
    let file = File::open(path).map_err(|e| io(path, e))?;
    if file.metadata().map_err(|e| io(path, e))?.is_dir() {
        return Err(DataError::Format {
            path: path.to_path_buf(),
            reason: "this is a directory, an annotation file is expected".into(),
        });
    }
    Ok(BufReader::with_capacity(1 << 20, file))
}

fn io(path: &Path, source: std::io::Error) -> DataError {
    match source.kind() {
        std::io::ErrorKind::NotFound => DataError::Format {
            path: path.to_path_buf(),
            reason: "no such annotation file; --root is the directory that the downloads were unpacked into".into(),
        },
        _ => DataError::Io(IoError {
            path: path.to_path_buf(),
            source,
        }),
    }
}

fn read<S: for<'de> DeserializeSeed<'de, Value = ()>>(path: &Path, seed: S) -> Result<()> {
    let mut json = Deserializer::from_reader(open(path)?);
    seed.deserialize(&mut json)
        .and_then(|()| json.end())
        .map_err(|error| DataError::Format {
            path: path.to_path_buf(),
            reason: match error.classify() {
                serde_json::error::Category::Eof => {
                    format!("the file is cut short ({error}); download it again")
                }
                _ => format!("not the annotations expected here: {error}"),
            },
        })
}

/// Hands the elements of an array on.
struct Elements<F, T>(F, PhantomData<T>);

impl<'de, T: DeserializeOwned, F: FnMut(T) -> Result<(), String>> DeserializeSeed<'de> for Elements<F, T> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de, T: DeserializeOwned, F: FnMut(T) -> Result<(), String>> Visitor<'de> for Elements<F, T> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut array: A) -> Result<(), A::Error> {
        let mut number = 0u64;
        while let Some(element) = array.next_element()? {
            (self.0)(element).map_err(|reason| serde::de::Error::custom(format!("entry {number}: {reason}")))?;
            number += 1;
        }
        Ok(())
    }
}

/// Hands one field of an object on.
struct Field<S>(&'static str, S);

impl<'de, S: DeserializeSeed<'de, Value = ()>> DeserializeSeed<'de> for Field<S> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de, S: DeserializeSeed<'de, Value = ()>> Visitor<'de> for Field<S> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an object with the key {:?}", self.0)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<(), A::Error> {
        let Field(wanted, seed) = self;
        let mut seed = Some(seed);
        while let Some(key) = object.next_key::<String>()? {
            match seed.take_if(|_| key == wanted) {
                Some(seed) => object.next_value_seed(seed)?,
                None => drop(object.next_value::<IgnoredAny>()?),
            }
        }
        match seed {
            None => Ok(()),
            Some(_) => Err(serde::de::Error::custom(format!("there is no key {wanted:?}"))),
        }
    }
}
