//! Reads JSON annotation files as a stream of values, so that memory never holds the whole file.

use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind};
use std::marker::PhantomData;
use std::path::Path;

use serde::de::{DeserializeOwned, DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Deserializer;

use crate::{PrepareError, Result};
use vlct_util::at;

/// Calls `each` with every element of the file's top-level array.
///
/// # Errors
/// Returns an error if the file is missing, cut short, not JSON or of another structure, or if `each` returns an error. In the last
/// case, the message has the index of the element.
pub fn for_each_element<T: DeserializeOwned>(path: &Path, each: impl FnMut(T) -> Result<(), String>) -> Result<()> {
    read(path, Elements(each, PhantomData))
}

/// Calls `each` with every element of the array `key` of the file's top-level object.
///
/// # Errors
/// Returns the errors of [`for_each_element`].
pub fn for_each_element_of_field<T: DeserializeOwned>(
    path: &Path,
    key: &'static str,
    each: impl FnMut(T) -> Result<(), String>,
) -> Result<()> {
    read(path, Field(key, Elements(each, PhantomData)))
}

/// Calls `each` with the value of every line that is not blank.
///
/// # Errors
/// Returns the errors of [`for_each_element`]; the message has the line number.
pub fn for_each_line<T: DeserializeOwned>(path: &Path, mut each: impl FnMut(T) -> Result<(), String>) -> Result<()> {
    let mut reader = open(path)?;
    let mut line = Vec::new();
    for number in 1u64.. {
        line.clear();
        let read = reader.read_until(b'\n', &mut line).map_err(at::<PrepareError>(path))?;
        if read == 0 {
            break;
        }
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let value = serde_json::from_slice(&line).map_err(|e| e.to_string());
        value
            .and_then(&mut each)
            .map_err(|reason| PrepareError::malformed(path, format!("line {number}: {reason}")))?;
    }
    Ok(())
}

fn open(path: &Path) -> Result<BufReader<File>> {
    let file = File::open(path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => PrepareError::MissingAnnotations(path.to_path_buf()),
        _ => at(path)(error),
    })?;
    if file.metadata().map_err(at::<PrepareError>(path))?.is_dir() {
        let reason = "this is a directory, not an annotation file";
        return Err(PrepareError::malformed(path, reason));
    }
    Ok(BufReader::with_capacity(1 << 20, file))
}

fn read<S: for<'de> DeserializeSeed<'de, Value = ()>>(path: &Path, seed: S) -> Result<()> {
    let mut json = Deserializer::from_reader(open(path)?);
    seed.deserialize(&mut json).and_then(|()| json.end()).map_err(|error| {
        let reason = match error.classify() {
            serde_json::error::Category::Eof => {
                format!("the file is cut short ({error}); download it again")
            }
            _ => format!("not the annotations expected here: {error}"),
        };
        PrepareError::malformed(path, reason)
    })
}

/// Passes the elements of an array to a function.
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
        let mut index = 0u64;
        while let Some(element) = array.next_element()? {
            (self.0)(element).map_err(|reason| serde::de::Error::custom(format!("entry {index}: {reason}")))?;
            index += 1;
        }
        Ok(())
    }
}

/// Deserialises one field of an object with a [`DeserializeSeed`], and skips the other fields.
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
        let Field(field, seed) = self;
        let mut seed = Some(seed);
        while let Some(key) = object.next_key::<String>()? {
            match seed.take_if(|_| key == field) {
                Some(seed) => object.next_value_seed(seed)?,
                None => drop(object.next_value::<IgnoredAny>()?),
            }
        }
        match seed {
            None => Ok(()),
            Some(_) => Err(serde::de::Error::custom(format!("there is no key {field:?}"))),
        }
    }
}
