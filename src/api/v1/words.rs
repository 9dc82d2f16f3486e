//! The model's enumerations in the API: the same words as in the protocol and the database, typed in the OpenAPI
//! document, so that generated clients have enumerations and not texts.

use std::borrow::Cow;

use poem_openapi::registry::{MetaSchema, MetaSchemaRef, Registry};
use poem_openapi::types::{ParseError, ParseFromJSON, ParseFromParameter, ParseResult, ToJSON, Type};
use serde_json::Value;

use crate::model::span::Method;
use crate::model::task::{LegState, NodeType, Policy, Role, TaskState};

fn words(all: impl Iterator<Item = &'static str>) -> String {
    all.collect::<Vec<_>>().join(", ")
}

macro_rules! word_type {
    ($type:ty, $name:literal, $text:literal) => {
        impl Type for $type {
            const IS_REQUIRED: bool = true;
            type RawValueType = Self;
            type RawElementValueType = Self;

            fn name() -> Cow<'static, str> {
                $name.into()
            }
            fn schema_ref() -> MetaSchemaRef {
                MetaSchemaRef::Reference($name.into())
            }
            fn register(registry: &mut Registry) {
                registry.create_schema::<Self, _>($name.into(), |_| MetaSchema {
                    description: Some($text),
                    enum_items: <$type>::ALL.iter().map(|w| Value::String(w.as_str().into())).collect(),
                    ..MetaSchema::new("string")
                });
            }
            fn as_raw_value(&self) -> Option<&Self> {
                Some(self)
            }
            fn raw_element_iter<'a>(&'a self) -> Box<dyn Iterator<Item = &'a Self> + 'a> {
                Box::new(self.as_raw_value().into_iter())
            }
        }

        impl ParseFromJSON for $type {
            fn parse_from_json(value: Option<Value>) -> ParseResult<Self> {
                let value = value.unwrap_or_default();
                let word = value.as_str().and_then(<$type>::parse);
                word.ok_or_else(|| ParseError::expected_type(value))
            }
        }

        impl ParseFromParameter for $type {
            fn parse_from_parameter(value: &str) -> ParseResult<Self> {
                <$type>::parse(value).ok_or_else(|| {
                    ParseError::custom(format!("expected one of: {}", words(<$type>::ALL.iter().map(|w| w.as_str()))))
                })
            }
        }

        impl ToJSON for $type {
            fn to_json(&self) -> Option<Value> {
                Some(Value::String(self.as_str().into()))
            }
        }
    };
}

word_type!(Role, "Role", "Which side of a delivery this node plays in a task.");
word_type!(NodeType, "NodeType", "What a node is.");
word_type!(Policy, "Policy", "At any time, or each method inside its window only.");
word_type!(TaskState, "TaskState", "Where a task stands.");
word_type!(LegState, "LegState", "Where one method's part of a task stands.");
word_type!(Method, "Method", "BitTorrent, object storage, CDN.");
