//! Body and query of the calls on a topic's list of subscribers.

use super::list::Attrs;
use super::within;
use crate::http::draft::{is_attr_name, malformed};
use ron_core::fanout::{Addition, EDIT_MAX, Edit, Filter};
use ron_core::ids::Topic;
use ron_core::reason::Refusal;
use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::fmt;
use std::marker::PhantomData;
use utoipa::{IntoParams, ToSchema};

/// Subscribers on one page.
const PAGE: u32 = 100;
const PAGE_MAX: u64 = 1_000;

/// A list of at most [`EDIT_MAX`] entries; the bound holds while reading.
#[derive(Debug)]
struct UpTo<T>(Vec<T>);

impl<T> Default for UpTo<T> {
    fn default() -> UpTo<T> {
        UpTo(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for UpTo<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Entries<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Entries<T> {
            type Value = UpTo<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<UpTo<T>, A::Error> {
                let mut list = Vec::new();
                while let Some(entry) = seq.next_element()? {
                    if list.len() == EDIT_MAX {
                        return Err(A::Error::custom("must have at most 1000 entries"));
                    }
                    list.push(entry);
                }
                Ok(UpTo(list))
            }
        }

        from.deserialize_seq(Entries(PhantomData))
    }
}

/// Which messages a subscriber wants.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = SubscriberFilter)]
struct FilterRequest {
    /// It has all of these.
    #[schema(inline)]
    attr: Option<Attrs>,
}

/// One subscriber to add.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object with a topic, and a filter if it has one")]
#[schema(as = Subscriber)]
struct AddRequest {
    /// Of the same tenant.
    #[schema(pattern = "^[a-z0-9][a-z0-9._-]{0,127}$")]
    topic: String,
    filter: Option<FilterRequest>,
}

/// Body of PUT /subscribers.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct SubscribersRequest {
    #[serde(default)]
    #[schema(value_type = Vec<AddRequest>, max_items = 1000)]
    add: UpTo<AddRequest>,
    #[serde(default)]
    #[schema(value_type = Vec<String>, max_items = 1000)]
    remove: UpTo<String>,
}

impl SubscribersRequest {
    /// The change that is asked for.
    pub(in crate::http) fn check(self) -> Result<Edit, Refusal> {
        let add = self.add.0.into_iter().map(AddRequest::check).collect::<Result<Vec<_>, _>>()?;
        let parse = |text: String| Topic::parse(&text).map_err(|bad| malformed(format!("remove[]: {bad}")));
        let remove = self.remove.0.into_iter().map(parse).collect::<Result<Vec<_>, _>>()?;
        Ok(Edit { add, remove })
    }
}

impl AddRequest {
    fn check(self) -> Result<Addition, Refusal> {
        let topic = Topic::parse(&self.topic).map_err(|bad| malformed(format!("add[].topic: {bad}")))?;
        let attrs = self.filter.unwrap_or_default().attr.unwrap_or_default().0;
        if attrs.iter().any(|(name, _)| !is_attr_name(name)) {
            return Err(malformed("names in add[].filter.attr must match [a-z0-9][a-z0-9_-]{0,63}"));
        }
        Ok(Addition { topic, filter: Filter { attrs: attrs.into_iter().collect() } })
    }
}

/// Query of GET /subscribers.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(in crate::http) struct SubscribersQuery {
    /// Most subscribers of the page; 100 if absent.
    #[param(minimum = 1, maximum = 1000, nullable = false)]
    limit: Option<u32>,
    /// As the page before gave it.
    #[param(nullable = false)]
    cursor: Option<String>,
}

impl SubscribersQuery {
    /// Behind which name, and how many.
    pub(in crate::http) fn check(&self) -> Result<(Option<Topic>, usize), Refusal> {
        let limit = self.limit.unwrap_or(PAGE);
        within("limit", u64::from(limit), &(1..=PAGE_MAX))?;
        let parse = |text: &String| Topic::parse(text).map_err(|_| malformed("cursor: not one of this list"));
        Ok((self.cursor.as_ref().map(parse).transpose()?, limit as usize))
    }
}
