//! Reads the few BSON documents that frame a mongodump archive: flat, a handful of fields.
//!
//! The documents of the collections are never decoded: only their length and last byte are looked at.

/// What is wrong with a framing document.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The length prefix is not the length, or the last byte is not zero.
    #[error("it is not one BSON document")]
    Shape,
    /// An element reaches over the document's end.
    #[error("an element is cut short")]
    Cut,
    /// Names and strings must be UTF-8.
    #[error("a string is not UTF-8")]
    NotUtf8,
    /// An element type that no framing document has.
    #[error("element type 0x{tag:02x} does not belong there")]
    ElementType {
        /// The BSON type byte.
        tag: u8,
    },
    /// A field that must be there is not.
    #[error("field {field} is missing")]
    Missing {
        /// The field's name.
        field: &'static str,
    },
    /// A field has another type than the format says.
    #[error("field {field} has the wrong type")]
    WrongType {
        /// The field's name.
        field: &'static str,
    },
    /// A field appears twice.
    #[error("field {field} appears twice")]
    Repeated {
        /// The field's name.
        field: &'static str,
    },
    /// A field that mongorestore refuses too.
    #[error("an unknown field")]
    UnknownField,
}

/// A value of a framing document.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Value<'a> {
    /// A string.
    String(&'a str),
    /// A boolean.
    Bool(bool),
    /// A 32-bit integer.
    Int32(i32),
    /// A 64-bit integer.
    Int64(i64),
    /// Some other flat value that nobody asks for.
    Other,
}

/// The elements of one flat document, in order.
pub(super) struct Elements<'a> {
    rest: &'a [u8],
}

/// Returns the elements of `document`, whose length prefix and last byte must fit.
pub(super) fn elements(document: &[u8]) -> Result<Elements<'_>, Fault> {
    let (prefix, rest) = document.split_first_chunk::<4>().ok_or(Fault::Shape)?;
    if usize::try_from(u32::from_le_bytes(*prefix)) != Ok(document.len()) {
        return Err(Fault::Shape);
    }
    match rest.split_last() {
        Some((0, rest)) => Ok(Elements { rest }),
        _ => Err(Fault::Shape),
    }
}

impl<'a> Iterator for Elements<'a> {
    type Item = Result<(&'a str, Value<'a>), Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        let (&tag, rest) = self.rest.split_first()?;
        self.rest = rest;
        let element = self.element(tag);
        if element.is_err() {
            self.rest = &[];
        }
        Some(element)
    }
}

impl<'a> Elements<'a> {
    fn element(&mut self, tag: u8) -> Result<(&'a str, Value<'a>), Fault> {
        let name = self.name()?;
        let value = match tag {
            0x01 | 0x09 | 0x11 => {
                self.chunk::<8>()?;
                Value::Other
            }
            0x02 => Value::String(self.string()?),
            0x08 => match self.chunk::<1>()? {
                [0] => Value::Bool(false),
                [1] => Value::Bool(true),
                _ => return Err(Fault::Shape),
            },
            0x0a => Value::Other,
            0x10 => Value::Int32(i32::from_le_bytes(self.chunk()?)),
            0x12 => Value::Int64(i64::from_le_bytes(self.chunk()?)),
            tag => return Err(Fault::ElementType { tag }),
        };
        Ok((name, value))
    }

    fn name(&mut self) -> Result<&'a str, Fault> {
        let len = self.rest.iter().position(|byte| *byte == 0).ok_or(Fault::Cut)?;
        let name = self.take(len)?;
        self.chunk::<1>()?;
        std::str::from_utf8(name).map_err(|_| Fault::NotUtf8)
    }

    fn string(&mut self) -> Result<&'a str, Fault> {
        let len = usize::try_from(u32::from_le_bytes(self.chunk()?)).map_err(|_| Fault::Cut)?;
        match self.take(len)?.split_last() {
            Some((0, text)) => std::str::from_utf8(text).map_err(|_| Fault::NotUtf8),
            _ => Err(Fault::Shape),
        }
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], Fault> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(Fault::Cut)?;
        self.rest = rest;
        Ok(taken)
    }

    fn chunk<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or(Fault::Cut)?;
        self.rest = rest;
        Ok(*taken)
    }
}

/// A field that may be set once.
pub(super) struct Field<T> {
    name: &'static str,
    value: Option<T>,
}

impl<T> Field<T> {
    pub(super) fn new(name: &'static str) -> Self {
        Self { name, value: None }
    }

    /// Sets the field; `None` says that the value had the wrong type.
    pub(super) fn set(&mut self, value: Option<T>) -> Result<(), Fault> {
        let value = value.ok_or(Fault::WrongType { field: self.name })?;
        match self.value.replace(value) {
            None => Ok(()),
            Some(_) => Err(Fault::Repeated { field: self.name }),
        }
    }

    pub(super) fn required(self) -> Result<T, Fault> {
        self.value.ok_or(Fault::Missing { field: self.name })
    }

    pub(super) fn optional(self) -> Option<T> {
        self.value
    }
}

impl<'a> Value<'a> {
    pub(super) fn string(self) -> Option<&'a str> {
        match self {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn bool(self) -> Option<bool> {
        match self {
            Value::Bool(value) => Some(value),
            _ => None,
        }
    }

    pub(super) fn int32(self) -> Option<i32> {
        match self {
            Value::Int32(value) => Some(value),
            _ => None,
        }
    }

    pub(super) fn int64(self) -> Option<i64> {
        match self {
            Value::Int64(value) => Some(value),
            _ => None,
        }
    }
}
