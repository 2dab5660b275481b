//! Readers of Arrow files for the tests of this crate and, with the feature `testing`, of other crates.

use std::path::Path;

use arrow_ipc::reader::FileReader;
use arrow_schema::{DataType, Schema};
use serde_json::{Value, json};

use crate::Result;
use crate::arrow::ArrowTable;

/// Reads a value as JSON, in the form of the golden data. `data_type` is the type of its column.
pub fn value(table: &ArrowTable, row: usize, column: &str, data_type: &DataType) -> Result<Value> {
    use DataType::*;
    let item_type = |t: &DataType| match t {
        List(field) => Some(field.data_type().clone()),
        _ => None,
    };
    Ok(match data_type {
        Binary => json!({"bytes": table.image(row, column)?.len()}),
        Utf8 | LargeUtf8 => json!(table.string(row, column)?),
        Int64 => json!(table.integer(row, column)?),
        List(field) => match (field.data_type(), item_type(field.data_type())) {
            (Utf8 | LargeUtf8 | Null, _) => json!(table.texts(row, column)?),
            (Int64, _) => json!(table.integers(row, column)?),
            (_, Some(Utf8)) => json!(table.text_lists(row, column)?),
            (_, Some(Int64)) => json!(table.integer_lists(row, column)?),
            (_, Some(Float64)) => json!(table.float_lists(row, column)?),
            other => panic!("no reader for {other:?}"),
        },
        Null => json!(table.texts(row, column)?),
        other => panic!("no reader for {other}"),
    })
}

/// Reads the schema of an Arrow file with `arrow-ipc`.
pub fn schema(path: &Path) -> Schema {
    let file = std::fs::File::open(path).expect("file");
    FileReader::try_new(file, None)
        .expect("Arrow file")
        .schema()
        .as_ref()
        .clone()
}

/// Reads all rows of an Arrow file, each as an object with one value per column.
pub fn rows_as_json(path: &Path) -> Vec<Value> {
    let (table, schema) = (ArrowTable::open(path).unwrap(), schema(path));
    (0..table.rows())
        .map(|row| {
            let fields = schema.fields().iter().map(|field| {
                let value = value(&table, row, field.name(), field.data_type()).unwrap();
                (field.name().clone(), value)
            });
            Value::Object(fields.collect())
        })
        .collect()
}

/// Reads up to `rows` rows with every method for every column, to find panics. Errors are ignored.
pub fn read_values(table: &ArrowTable, rows: usize) {
    let columns: Vec<&str> = table.columns().collect();
    for row in 0..table.rows().min(rows) {
        for column in &columns {
            let _ = table.image(row, column);
            let _ = table.string(row, column);
            let _ = table.texts(row, column);
            let _ = table.integer(row, column);
            let _ = table.integers(row, column);
            let _ = table.text_lists(row, column);
            let _ = table.integer_lists(row, column);
            let _ = table.float_lists(row, column);
        }
    }
}

/// Returns a golden row without the hashes of its binary values. Their lengths stay.
pub fn without_hash(row: &Value) -> Value {
    let object = row.as_object().expect("a row");
    let fields = object.iter().map(|(name, value)| match value.get("sha256") {
        Some(_) => (name.clone(), json!({"bytes": value["bytes"]})),
        None => (name.clone(), value.clone()),
    });
    Value::Object(fields.collect())
}
