//! Lists and attributes in JSON bodies, bounded while they are read.

use serde::de::{Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::fmt;
use std::marker::PhantomData;
use utoipa::openapi::schema::{AdditionalProperties, ObjectBuilder, Schema};
use utoipa::openapi::{RefOr, Type};
use utoipa::{PartialSchema, ToSchema};

/// Most entries of a list in a request.
pub(super) const LIST_MAX: usize = 256;

/// A list of at most [`LIST_MAX`] entries; the bound holds while reading, so that many tiny entries cannot
/// swell.
#[derive(Debug, Default)]
pub(in crate::http) struct List<T>(pub(in crate::http) Vec<T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Entries<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Entries<T> {
            type Value = List<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<List<T>, A::Error> {
                let mut list = Vec::new();
                while let Some(entry) = seq.next_element()? {
                    if list.len() == LIST_MAX {
                        return Err(A::Error::custom("must have at most 256 entries"));
                    }
                    list.push(entry);
                }
                if list.is_empty() {
                    return Err(A::Error::custom("must have at least one entry"));
                }
                Ok(List(list))
            }
        }

        from.deserialize_seq(Entries(PhantomData))
    }
}

/// Attributes of a batch item: an object of texts, in the order sent, no name twice.
#[derive(Debug, Default)]
pub(super) struct Attrs(pub(super) Vec<(String, String)>);

impl<'de> Deserialize<'de> for Attrs {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Pairs;

        impl<'de> Visitor<'de> for Pairs {
            type Value = Attrs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of texts")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Attrs, A::Error> {
                let mut pairs: Vec<(String, String)> = Vec::new();
                while let Some((name, value)) = map.next_entry::<String, String>()? {
                    if pairs.iter().any(|(known, _)| *known == name) {
                        return Err(A::Error::custom("must not have a name twice"));
                    }
                    if pairs.len() == LIST_MAX {
                        return Err(A::Error::custom("must have at most 16 attributes"));
                    }
                    pairs.push((name, value));
                }
                Ok(Attrs(pairs))
            }
        }

        from.deserialize_map(Pairs)
    }
}

impl PartialSchema for Attrs {
    fn schema() -> RefOr<Schema> {
        let value = ObjectBuilder::new().schema_type(Type::String).build();
        let names =
            ObjectBuilder::new().schema_type(Type::String).pattern(Some("^[a-z0-9][a-z0-9_-]{0,63}$"));
        let text = "Attributes: at most 16, names and values at most 4 KiB together.";
        ObjectBuilder::new()
            .description(Some(text))
            .property_names(Some(names))
            .additional_properties(Some(AdditionalProperties::RefOr(value.into())))
            .build()
            .into()
    }
}

impl ToSchema for Attrs {}
