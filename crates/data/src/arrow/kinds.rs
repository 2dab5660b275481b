//! The types of columns, and which of them are read.

use arrow_ipc::{Field, MetadataVersion, Precision, Schema, Type, UnionMode};

/// The type of a column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// No values (columns of an empty shard, answers of a test split).
    Null,
    /// Text or binary. `large`: Arrow's large types, whose offsets have 8 bytes instead of 4.
    Bytes { large: bool, text: bool },
    /// Text or binary as views, each the bytes of a short value or the position of a long one.
    View { text: bool },
    /// Lists. `large`: Arrow's large lists, whose offsets have 8 bytes instead of 4.
    List { large: bool, item: Box<Kind> },
    /// Structs, such as an image of Hugging Face's datasets: its bytes and its path.
    Struct { fields: Vec<Column> },
    /// Signed integers of 64 bits.
    Int64,
    /// Integers of other types, each of 1, 2, 4 or 8 bytes.
    Integer { bytes: usize, signed: bool },
    /// Floating point of 64 bits.
    Float64,
    /// Any other type with a known layout. Its values are not read.
    Other {
        name: &'static str,
        /// Number of buffers, without those of the children.
        buffers: usize,
        children: Vec<Kind>,
    },
    /// A type without a known layout, or a column after one of such a type.
    Unknown { name: String },
}

/// A column of the schema, or a field of a struct.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Column {
    pub name: String,
    pub kind: Kind,
}

impl Kind {
    /// Whether the values are texts.
    pub fn is_text(&self) -> bool {
        matches!(self, Self::Bytes { text: true, .. } | Self::View { text: true })
    }

    /// Whether the values are the bytes of files.
    pub fn is_binary(&self) -> bool {
        matches!(self, Self::Bytes { text: false, .. } | Self::View { text: false })
    }

    /// Returns the position of the field `name` of a struct.
    pub fn field(&self, name: &str) -> Option<usize> {
        match self {
            Self::Struct { fields } => fields.iter().position(|field| field.name == name),
            _ => None,
        }
    }

    /// Whether the values are images: the bytes of files, or structs with a field `bytes`.
    pub fn is_image(&self) -> bool {
        let has_bytes = |fields: &[Column]| fields.iter().any(|f| f.name == "bytes" && f.kind.is_binary());
        self.is_binary() || matches!(self, Self::Struct { fields } if has_bytes(fields))
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Kind::Null => f.write_str("nothing (type null)"),
            Kind::Bytes { text: true, .. } | Kind::View { text: true } => f.write_str("text"),
            Kind::Bytes { text: false, .. } | Kind::View { text: false } => f.write_str("binary values"),
            Kind::List { item, .. } => write!(f, "lists of {item}"),
            Kind::Struct { fields } => {
                let names: Vec<&str> = fields.iter().map(|field| field.name.as_str()).collect();
                write!(f, "structs of {}", names.join(", "))
            }
            Kind::Int64 => f.write_str("64-bit integers"),
            Kind::Integer { bytes, signed } => {
                let sign = if *signed { "" } else { "unsigned " };
                write!(f, "{sign}{}-bit integers", bytes * 8)
            }
            Kind::Float64 => f.write_str("64-bit floating-point numbers"),
            Kind::Other { name, .. } => write!(f, "values of type {name}"),
            Kind::Unknown { name } => f.write_str(name),
        }
    }
}

/// Returns the columns of a schema. Columns from the first one of an unknown type on are [`Kind::Unknown`].
///
/// # Errors
/// Returns an error if the schema is damaged.
pub(super) fn columns_of(version: MetadataVersion, schema: &Schema<'_>) -> Result<Vec<Column>, String> {
    let mut unknown: Option<String> = None;
    let mut columns = Vec::new();
    for field in schema.fields().iter().flatten() {
        let name = field.name().unwrap_or_default().to_string();
        let kind = match &unknown {
            Some(earlier) => Kind::Unknown {
                name: format!("values after the column {earlier:?}, whose type is unknown; write them before it"),
            },
            None => kind_of(version, &field)?.unwrap_or_else(|| {
                unknown = Some(name.clone());
                Kind::Unknown {
                    name: "values of an unknown type".into(),
                }
            }),
        };
        columns.push(Column { name, kind });
    }
    Ok(columns)
}

/// Returns the [`Kind`] of a field; `None` if its type or that of a part of it is unknown.
fn kind_of(version: MetadataVersion, field: &Field<'_>) -> Result<Option<Kind>, String> {
    let fields = || {
        let children = field.children().into_iter().flatten();
        let columns = children.map(|child| {
            let kind = kind_of(version, &child)?;
            let name = child.name().unwrap_or_default().to_string();
            Ok(kind.map(|kind| Column { name, kind }))
        });
        columns.collect::<Result<Option<Vec<Column>>, String>>()
    };
    let children = || Ok::<_, String>(fields()?.map(|fields| fields.into_iter().map(|field| field.kind).collect()));
    let list = |large| {
        let Some(mut children): Option<Vec<Kind>> = children()? else {
            return Ok(None);
        };
        match (children.pop(), children.is_empty()) {
            (Some(item), true) => Ok(Some(Kind::List {
                large,
                item: Box::new(item),
            })),
            _ => Err("its schema is damaged: a list without an item type".to_string()),
        }
    };
    let other = |name, buffers, children: Option<Vec<Kind>>| {
        Ok(children.map(|children| Kind::Other {
            name,
            buffers,
            children,
        }))
    };
    let known = |kind| Ok(Some(kind));
    let leaf = Some(Vec::new());
    if field.dictionary().is_some() {
        return other("dictionary", 2, leaf);
    }
    match field.type_type() {
        Type::Null => known(Kind::Null),
        Type::Binary => known(Kind::Bytes {
            large: false,
            text: false,
        }),
        Type::LargeBinary => known(Kind::Bytes {
            large: true,
            text: false,
        }),
        Type::Utf8 => known(Kind::Bytes {
            large: false,
            text: true,
        }),
        Type::LargeUtf8 => known(Kind::Bytes {
            large: true,
            text: true,
        }),
        Type::BinaryView => known(Kind::View { text: false }),
        Type::Utf8View => known(Kind::View { text: true }),
        Type::List => list(false),
        Type::LargeList => list(true),
        Type::Int => match field.type_as_int() {
            Some(int) if int.bitWidth() == 64 && int.is_signed() => known(Kind::Int64),
            Some(int) if matches!(int.bitWidth(), 8 | 16 | 32 | 64) => known(Kind::Integer {
                bytes: int.bitWidth() as usize / 8,
                signed: int.is_signed(),
            }),
            _ => other("integer of another width", 2, leaf),
        },
        Type::FloatingPoint => match field.type_as_floating_point() {
            Some(float) if float.precision() == Precision::DOUBLE => known(Kind::Float64),
            _ => other("floating point of another width", 2, leaf),
        },
        Type::Bool => other("boolean", 2, leaf),
        Type::Decimal => other("decimal", 2, leaf),
        Type::Date | Type::Time | Type::Timestamp | Type::Duration | Type::Interval => other("date or time", 2, leaf),
        Type::FixedSizeBinary => other("fixed-size binary", 2, leaf),
        Type::FixedSizeList => other("fixed-size list", 1, children()?),
        Type::ListView | Type::LargeListView => other("list view", 3, children()?),
        Type::RunEndEncoded => other("run-end encoded values", 0, children()?),
        Type::Union => {
            let is_dense = field
                .type_as_union()
                .is_some_and(|union| union.mode() == UnionMode::Dense);
            // Before version 5, unions have a validity bitmap.
            let buffers = 1 + usize::from(is_dense) + usize::from(version < MetadataVersion::V5);
            other("union", buffers, children()?)
        }
        Type::Struct_ => Ok(fields()?.map(|fields| Kind::Struct { fields })),
        Type::Map => other("map", 2, children()?),
        _ => Ok(None),
    }
}
