//! Decodes the columns of a row group to cells.
//!
//! A column of Parquet is a tree of fields, whose leaves store the values. Each value has two levels. Its definition level is the
//! number of optional and repeated fields on its path that exist. Its repetition level is 0 where a row begins.

use std::fs::File;
use std::sync::Arc;

use parquet::basic::{Compression, ConvertedType, LogicalType, Type as PhysicalType};
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::DataType;
use parquet::errors::{ParquetError, Result};
use parquet::file::reader::RowGroupReader;
use parquet::schema::types::{ColumnDescriptor, SchemaDescriptor, Type};

use crate::tables::cells::Cell;
use crate::tables::columns::Role;

/// The type of cell to which the values of a leaf are converted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Text,
    Bytes,
    Signed,
    Unsigned,
    Float,
    Truth,
    Unsupported,
}

/// A leaf that is read.
#[derive(Clone, Debug)]
struct Leaf {
    /// Position among all leaves of the file.
    index: usize,
    kind: Kind,
    /// The definition level of an existing value. A lower level means that the value is missing.
    max_definition: i16,
    /// Whether repetition levels are stored.
    has_repetition: bool,
}

/// The structure of the values of a column.
#[derive(Clone, Debug)]
enum Shape {
    /// One value.
    Value(Leaf),
    /// A list of values.
    List(Leaf),
    /// An image as Hugging Face's datasets store it: a struct of bytes and a path. At least one of them exists.
    Image { bytes: Option<Leaf>, path: Option<Leaf> },
    /// A value that no role can use, with a description. The leaf determines which rows are null.
    Other(Leaf, &'static str),
}

/// A column that is read.
#[derive(Clone, Debug)]
pub(super) struct Column {
    shape: Shape,
    /// Definition levels below this mean that the whole value is null: 1 if the column is optional, otherwise 0.
    min_definition: i16,
    /// Whether the items of a list may be integers, which become texts.
    has_number_items: bool,
}

impl Column {
    /// Returns column `position` of the file; `None` if the file has no such column.
    pub fn new(schema: &SchemaDescriptor, position: usize, role: Role) -> Option<Self> {
        let root = schema.root_schema().get_fields().get(position)?;
        let leaves: Vec<Leaf> = (0..schema.num_columns())
            .filter(|leaf| schema.get_column_root_idx(*leaf) == position)
            .map(|leaf| Leaf::new(schema, leaf))
            .collect();
        let first = leaves.first()?.clone();
        let list_depth = |leaf: &Leaf| schema.column(leaf.index).max_rep_level();
        let part = |name: &str| {
            let is_part = |leaf: &&Leaf| {
                let path = schema.column(leaf.index);
                list_depth(leaf) == 0 && path.path().parts().get(1..).is_some_and(|rest| rest == [name])
            };
            leaves.iter().find(is_part).cloned()
        };
        // The field `name` of the structs in a list.
        let list_of = |name: &str| {
            let is_field = |leaf: &&Leaf| {
                let path = schema.column(leaf.index);
                list_depth(leaf) == 1
                    && path.path().parts().len() > 2
                    && path.path().parts().last().is_some_and(|last| last == name)
            };
            leaves.iter().find(is_field).cloned()
        };
        let is_list = root.get_basic_info().converted_type() == ConvertedType::LIST
            || matches!(root.get_basic_info().logical_type_ref(), Some(LogicalType::List))
            || root.is_primitive();
        let shape = if leaves.len() == 1 && list_depth(&first) == 0 && root.is_primitive() {
            Shape::Value(first)
        } else if leaves.len() == 1 && list_depth(&first) == 1 && is_list {
            Shape::List(first)
        } else if let Some(texts) = role
            .text_fields()
            .iter()
            .find_map(|field| list_of(field))
            .filter(|_| is_list)
        {
            Shape::List(texts)
        } else if is_list {
            Shape::Other(first, "a list whose items are not texts")
        } else if matches!(role, Role::Image | Role::SecondImage) {
            match (part("bytes"), part("path")) {
                (None, None) => Shape::Other(first, "a struct without bytes and path"),
                (bytes, path) => Shape::Image { bytes, path },
            }
        } else {
            Shape::Other(first, "a struct")
        };
        Some(Self {
            shape,
            min_definition: is_optional(root).into(),
            has_number_items: matches!(role, Role::Label | Role::Answer),
        })
    }

    /// Returns whether the rows hold the bytes of images.
    pub fn embeds_images(&self) -> bool {
        match &self.shape {
            Shape::Value(leaf) => leaf.kind == Kind::Bytes,
            Shape::Image { bytes, .. } => bytes.is_some(),
            Shape::List(_) | Shape::Other(..) => false,
        }
    }

    /// Returns the column without the bytes of images; `None` if nothing remains.
    pub fn without_bytes(self) -> Option<Self> {
        match self.shape {
            Shape::Image { path: Some(path), .. } => Some(Self {
                shape: Shape::Image {
                    bytes: None,
                    path: Some(path),
                },
                ..self
            }),
            _ => None,
        }
    }

    /// Returns the positions of the column's leaves among all leaves of the file.
    pub fn leaves(&self) -> impl Iterator<Item = usize> {
        let (first, second) = match &self.shape {
            Shape::Value(leaf) | Shape::List(leaf) | Shape::Other(leaf, _) => (Some(leaf.index), None),
            Shape::Image { bytes, path } => (bytes.as_ref().map(|l| l.index), path.as_ref().map(|l| l.index)),
        };
        first.into_iter().chain(second)
    }

    /// Opens the column in a row group.
    ///
    /// # Errors
    /// Returns an error if a page cannot be read.
    pub fn open(&self, group: &dyn RowGroupReader, file: &Arc<File>, max_page: usize) -> Result<ColumnDecoder> {
        let leaf_reader = |leaf: &Leaf| {
            let metadata = group.metadata().column(leaf.index);
            let reader = match metadata.compression() {
                Compression::ZSTD(_) => {
                    let rows = usize::try_from(group.metadata().num_rows()).unwrap_or(0);
                    vlct_pages::open_zstd(file, metadata, rows, max_page)?
                }
                _ => group.get_column_reader(leaf.index)?,
            };
            Ok::<_, ParquetError>(LeafReader {
                leaf: leaf.clone(),
                reader,
            })
        };
        let readers = match &self.shape {
            Shape::Value(l) | Shape::List(l) | Shape::Other(l, _) => [Some(leaf_reader(l)?), None],
            Shape::Image { bytes, path } => [
                bytes.as_ref().map(leaf_reader).transpose()?,
                path.as_ref().map(leaf_reader).transpose()?,
            ],
        };
        Ok(ColumnDecoder {
            column: self.clone(),
            readers,
        })
    }
}

fn is_optional(field: &Type) -> bool {
    field.get_basic_info().has_repetition() && field.is_optional()
}

impl Leaf {
    fn new(schema: &SchemaDescriptor, index: usize) -> Self {
        let column = schema.column(index);
        Self {
            index,
            kind: kind_of(&column),
            max_definition: column.max_def_level(),
            has_repetition: column.max_rep_level() > 0,
        }
    }
}

fn kind_of(column: &ColumnDescriptor) -> Kind {
    match (
        column.physical_type(),
        column.logical_type_ref(),
        column.converted_type(),
    ) {
        (PhysicalType::BYTE_ARRAY, Some(LogicalType::String | LogicalType::Json), _) => Kind::Text,
        (PhysicalType::BYTE_ARRAY, None, ConvertedType::UTF8 | ConvertedType::JSON) => Kind::Text,
        (PhysicalType::BYTE_ARRAY, _, ConvertedType::DECIMAL) => Kind::Unsupported,
        (PhysicalType::BYTE_ARRAY, ..) => Kind::Bytes,
        (PhysicalType::INT32 | PhysicalType::INT64, None, converted) => match converted {
            ConvertedType::NONE
            | ConvertedType::INT_8
            | ConvertedType::INT_16
            | ConvertedType::INT_32
            | ConvertedType::INT_64 => Kind::Signed,
            ConvertedType::UINT_8 | ConvertedType::UINT_16 | ConvertedType::UINT_32 | ConvertedType::UINT_64 => {
                Kind::Unsigned
            }
            _ => Kind::Unsupported,
        },
        (PhysicalType::INT32 | PhysicalType::INT64, Some(LogicalType::Integer(integer)), _) => {
            if integer.is_signed {
                Kind::Signed
            } else {
                Kind::Unsigned
            }
        }
        (PhysicalType::BOOLEAN, ..) => Kind::Truth,
        (PhysicalType::FLOAT | PhysicalType::DOUBLE, ..) => Kind::Float,
        _ => Kind::Unsupported,
    }
}

/// A decoder of the rows of a column in a row group.
pub(super) struct ColumnDecoder {
    column: Column,
    /// A reader for each leaf: at most two for images, one for other columns.
    readers: [Option<LeafReader>; 2],
}

impl ColumnDecoder {
    /// Skips rows.
    ///
    /// # Errors
    /// Returns an error if the pages are damaged or have fewer rows.
    pub fn skip(&mut self, rows: usize) -> Result<()> {
        self.readers
            .iter_mut()
            .flatten()
            .try_for_each(|reader| reader.skip(rows))
    }

    /// Decodes the next `rows` rows.
    ///
    /// # Errors
    /// Returns an error if the pages are damaged or have fewer rows.
    pub fn read(&mut self, rows: usize) -> Result<Vec<Cell>> {
        let [first, second] = &mut self.readers;
        let read = |reader: &mut Option<LeafReader>| reader.as_mut().map(|r| r.read(rows)).transpose();
        let (first, second) = (read(first)?, read(second)?);
        let min_definition = self.column.min_definition;
        Ok(match (&self.column.shape, first, second) {
            (Shape::Image { .. }, bytes, path) => images(rows, min_definition, bytes, path),
            (Shape::Value(_), Some(leaf), _) => leaf.values(),
            (Shape::List(_), Some(leaf), _) => leaf.lists(min_definition, self.column.has_number_items),
            (Shape::Other(_, what), Some(leaf), _) => leaf.others(min_definition, what),
            (_, None, _) => unreachable!("other shapes than images have a leaf"),
        })
    }
}

/// A leaf in a row group.
struct LeafReader {
    leaf: Leaf,
    reader: ColumnReader,
}

impl LeafReader {
    fn skip(&mut self, rows: usize) -> Result<()> {
        let skipped = match &mut self.reader {
            ColumnReader::BoolColumnReader(reader) => reader.skip_records(rows),
            ColumnReader::Int32ColumnReader(reader) => reader.skip_records(rows),
            ColumnReader::Int64ColumnReader(reader) => reader.skip_records(rows),
            ColumnReader::Int96ColumnReader(reader) => reader.skip_records(rows),
            ColumnReader::FloatColumnReader(reader) => reader.skip_records(rows),
            ColumnReader::DoubleColumnReader(reader) => reader.skip_records(rows),
            ColumnReader::ByteArrayColumnReader(reader) => reader.skip_records(rows),
            ColumnReader::FixedLenByteArrayColumnReader(reader) => reader.skip_records(rows),
        }?;
        check_row_count(skipped, rows)
    }

    fn read(&mut self, rows: usize) -> Result<LeafRows> {
        const UNSUPPORTED: Cell = Cell::Other("values of a type that is not supported");
        let leaf = &self.leaf;
        match &mut self.reader {
            ColumnReader::ByteArrayColumnReader(reader) => read_leaf(leaf, reader, rows, |bytes| match leaf.kind {
                Kind::Text => match std::str::from_utf8(bytes.data()) {
                    Ok(text) => Cell::Text(text.to_string()),
                    Err(_) => Cell::Other("text that is not UTF-8"),
                },
                Kind::Bytes => Cell::Bytes(bytes.data().to_vec()),
                _ => UNSUPPORTED,
            }),
            ColumnReader::Int32ColumnReader(reader) => read_leaf(leaf, reader, rows, |value| match leaf.kind {
                Kind::Signed => Cell::Number(value.into()),
                Kind::Unsigned => Cell::Number(value.cast_unsigned().into()),
                _ => UNSUPPORTED,
            }),
            ColumnReader::Int64ColumnReader(reader) => read_leaf(leaf, reader, rows, |value| match leaf.kind {
                Kind::Signed => Cell::Number(value.into()),
                Kind::Unsigned => Cell::Number(value.cast_unsigned().into()),
                _ => UNSUPPORTED,
            }),
            ColumnReader::BoolColumnReader(reader) => read_leaf(leaf, reader, rows, |value| match leaf.kind {
                Kind::Truth => Cell::Truth(value),
                _ => UNSUPPORTED,
            }),
            ColumnReader::Int96ColumnReader(reader) => read_leaf(leaf, reader, rows, |_| UNSUPPORTED),
            ColumnReader::FloatColumnReader(reader) => {
                read_leaf(leaf, reader, rows, |value| Cell::of_float(value.into()))
            }
            ColumnReader::DoubleColumnReader(reader) => read_leaf(leaf, reader, rows, Cell::of_float),
            ColumnReader::FixedLenByteArrayColumnReader(reader) => read_leaf(leaf, reader, rows, |_| UNSUPPORTED),
        }
    }
}

/// Returns an error if a column has fewer rows than its row group.
fn check_row_count(rows: usize, expected: usize) -> Result<()> {
    if rows == expected {
        Ok(())
    } else {
        Err(ParquetError::EOF(
            "a column has fewer rows than its row group".to_string(),
        ))
    }
}

/// The contents of some rows of a leaf.
struct LeafRows {
    /// A definition level and a repetition level for each value and each missing value.
    levels: Vec<(i16, i16)>,
    max_definition: i16,
    /// The values that exist.
    cells: Vec<Cell>,
}

fn read_leaf<T: DataType>(
    leaf: &Leaf,
    reader: &mut ColumnReaderImpl<T>,
    rows: usize,
    convert: impl FnMut(T::T) -> Cell,
) -> Result<LeafRows> {
    let (mut definition, mut repetition, mut values) = (Vec::new(), Vec::new(), Vec::new());
    let (read, _, levels) = reader.read_records(
        rows,
        (leaf.max_definition > 0).then_some(&mut definition),
        leaf.has_repetition.then_some(&mut repetition),
        &mut values,
    )?;
    check_row_count(read, rows)?;
    // Levels that are always 0 are not stored.
    definition.resize(levels, 0);
    repetition.resize(levels, 0);
    Ok(LeafRows {
        levels: definition.into_iter().zip(repetition).collect(),
        max_definition: leaf.max_definition,
        cells: values.into_iter().map(convert).collect(),
    })
}

impl LeafRows {
    /// Returns a cell for each row of a leaf that is not repeated.
    fn values(self) -> Vec<Cell> {
        let mut cells = self.cells.into_iter();
        let exists = |definition| definition == self.max_definition;
        self.levels
            .into_iter()
            .map(|(definition, _)| {
                if exists(definition) {
                    cells.next().unwrap_or_default()
                } else {
                    Cell::Null
                }
            })
            .collect()
    }

    /// Returns a list for each row. Items that are null are left out.
    fn lists(self, min_definition: i16, has_number_items: bool) -> Vec<Cell> {
        let mut lists: Vec<Cell> = Vec::new();
        let mut cells = self.cells.into_iter();
        for (definition, repetition) in self.levels {
            if repetition == 0 {
                lists.push(if definition < min_definition {
                    Cell::Null
                } else {
                    Cell::Texts(Vec::new())
                });
            }
            if definition < self.max_definition {
                continue;
            }
            let text = match cells.next() {
                Some(Cell::Text(text)) => Some(text),
                Some(Cell::Bytes(bytes)) => String::from_utf8(bytes).ok(),
                Some(Cell::Number(number)) if has_number_items => Some(number.to_string()),
                _ => None,
            };
            match (lists.last_mut(), text) {
                (Some(Cell::Texts(texts)), Some(text)) => texts.push(text),
                (Some(list), _) => *list = Cell::Other("a list whose items are not texts"),
                (None, _) => {}
            }
        }
        lists
    }

    /// Returns for each row either null or [`Cell::Other`] with the description `what`.
    fn others(self, min_definition: i16, what: &'static str) -> Vec<Cell> {
        let rows = self.levels.into_iter().filter(|(_, repetition)| *repetition == 0);
        rows.map(|(definition, _)| {
            if definition < min_definition {
                Cell::Null
            } else {
                Cell::Other(what)
            }
        })
        .collect()
    }
}

/// Returns images made of the bytes and paths of `rows` rows.
fn images(rows: usize, min_definition: i16, bytes: Option<LeafRows>, path: Option<LeafRows>) -> Vec<Cell> {
    let levels = bytes.as_ref().or(path.as_ref()).map_or(&[][..], |part| &part.levels);
    let is_null: Vec<bool> = levels
        .iter()
        .map(|(definition, _)| *definition < min_definition)
        .collect();
    let cells = |part: Option<LeafRows>| part.map_or_else(|| vec![Cell::Null; rows], LeafRows::values);
    let parts = cells(bytes).into_iter().zip(cells(path));
    let image = |(is_null, (bytes, path))| match (is_null, bytes, path) {
        (true, ..) => Cell::Null,
        (false, bytes, path) => Cell::Image {
            bytes: if let Cell::Bytes(bytes) = bytes {
                Some(bytes)
            } else {
                None
            },
            path: if let Cell::Text(path) = path { Some(path) } else { None },
        },
    };
    is_null.into_iter().zip(parts).map(image).collect()
}
