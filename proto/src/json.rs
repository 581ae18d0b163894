//! Canonical proto3 JSON by reflection: one mechanism for every message, well-known types and `Any` included.
use prost::{Message, Name};
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};
use std::sync::OnceLock;

/// The encoded `FileDescriptorSet` of everything in this crate.
pub static DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// The descriptor pool of [`DESCRIPTORS`]; `None` only if the build itself was broken.
pub fn pool() -> Option<&'static DescriptorPool> {
    static POOL: OnceLock<Option<DescriptorPool>> = OnceLock::new();
    POOL.get_or_init(|| DescriptorPool::decode(DESCRIPTORS).ok()).as_ref()
}

/// The proto3 JSON of a message: lowerCamelCase names, defaults left out.
///
/// # Errors
/// A description when the message has no descriptor or holds an `Any` of an unknown type.
pub fn to_json<M: Message + Name>(message: &M) -> Result<serde_json::Value, String> {
    let descriptor = pool().and_then(|p| p.get_message_by_name(&M::full_name()));
    let descriptor = descriptor.ok_or_else(|| format!("no descriptor of {}", M::full_name()))?;
    let dynamic =
        DynamicMessage::decode(descriptor, message.encode_to_vec().as_slice()).map_err(|e| e.to_string())?;
    let options = SerializeOptions::new().stringify_64_bit_integers(true);
    dynamic.serialize_with_options(serde_json::value::Serializer, &options).map_err(|e| e.to_string())
}

/// Reads a message from its proto3 JSON; unknown fields are refused.
///
/// # Errors
/// The reader's own words, which name the field.
pub fn from_json<M: Message + Name + Default>(value: serde_json::Value) -> Result<M, String> {
    let descriptor = pool().and_then(|p| p.get_message_by_name(&M::full_name()));
    let descriptor = descriptor.ok_or_else(|| format!("no descriptor of {}", M::full_name()))?;
    let mut track = serde_path_to_error::Track::new();
    let with_path = serde_path_to_error::Deserializer::new(value, &mut track);
    let dynamic = DynamicMessage::deserialize(descriptor, with_path).map_err(|e: serde_json::Error| {
        match track.path().to_string().as_str() {
            "." | "" => e.to_string(),
            path => format!("{path}: {e}"),
        }
    })?;
    M::decode(dynamic.encode_to_vec().as_slice()).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1;

    #[test]
    fn json_is_canonical_and_round_trips() {
        let i = v1::Instance {
            name: "projects/p/instances/i".into(),
            state: v1::instance::State::Serving as i32,
            generation: 7,
            create_time: Some(prost_types::Timestamp { seconds: 1, nanos: 0 }),
            ..Default::default()
        };
        let j = to_json(&i).unwrap();
        assert_eq!(j["state"], "SERVING");
        assert_eq!(j["generation"], "7");
        assert_eq!(j["createTime"], "1970-01-01T00:00:01Z");
        assert_eq!(from_json::<v1::Instance>(j).unwrap(), i);
        assert!(from_json::<v1::Instance>(serde_json::json!({"nope": 1})).is_err());
    }
}
