//! Field masks by reflection: unknown paths are refused, the rest is cut out.
use prost::{Message, Name};
use prost_reflect::{DynamicMessage, Kind, MapKey, MessageDescriptor, ReflectMessage};
use prost_types::FieldMask;
use syp_proto::pool;
use tonic::Status;

/// Keeps only what the mask names; no mask or `*` keeps all.
///
/// # Errors
/// `INVALID_ARGUMENT` for a path that the message does not have.
pub fn keep<M: Message + Name + Default>(message: M, mask: Option<&FieldMask>) -> Result<M, Status> {
    let Some(mask) = mask.filter(|m| !m.paths.is_empty() && !m.paths.iter().any(|p| p == "*")) else {
        return Ok(message);
    };
    let descriptor = pool().and_then(|p| p.get_message_by_name(&M::full_name()));
    let descriptor = descriptor.ok_or_else(|| Status::internal("no descriptor"))?;
    let from = DynamicMessage::decode(descriptor.clone(), message.encode_to_vec().as_slice())
        .map_err(|e| Status::internal(e.to_string()))?;
    let mut to = DynamicMessage::new(descriptor);
    for path in &mask.paths {
        let parts: Vec<_> = path.split('.').collect();
        check(&from.descriptor(), &parts, path)?;
        copy(&from, &mut to, &parts);
    }
    M::decode(to.encode_to_vec().as_slice()).map_err(|e| Status::internal(e.to_string()))
}

/// Refuses paths that a message does not have.
///
/// # Errors
/// `INVALID_ARGUMENT` naming the path.
pub fn check(descriptor: &MessageDescriptor, parts: &[&str], path: &str) -> Result<(), Status> {
    let unknown = || super::status::invalid("field_mask", &format!("there is no field '{path}'"));
    let [first, rest @ ..] = parts else { return Ok(()) };
    let field = descriptor
        .get_field_by_name(first)
        .or_else(|| descriptor.get_field_by_json_name(first))
        .ok_or_else(unknown)?;
    if rest.is_empty() || field.is_map() {
        return Ok(());
    }
    match field.kind() {
        Kind::Message(m) if !field.is_list() => check(&m, rest, path),
        _ => Err(unknown()),
    }
}

fn copy(from: &DynamicMessage, to: &mut DynamicMessage, parts: &[&str]) {
    let [first, rest @ ..] = parts else { return };
    let descriptor = from.descriptor();
    let Some(field) =
        descriptor.get_field_by_name(first).or_else(|| descriptor.get_field_by_json_name(first))
    else {
        return;
    };
    if !from.has_field(&field) {
        return;
    }
    if rest.is_empty() || field.is_map() {
        to.set_field(&field, from.get_field(&field).into_owned());
        return;
    }
    if let (Some(f), Some(t)) =
        (from.get_field(&field).as_message(), to.get_field_mut(&field).as_message_mut())
    {
        copy(f, t, rest);
    }
}

/// `held` with the fields that `paths` name taken from `new`: absent there is cleared here. A path may name a key of a map.
///
/// # Errors
/// `INVALID_ARGUMENT` for a path that the message does not have.
pub fn apply<M: Message + Name + Default>(held: &M, new: &M, paths: &[&str]) -> Result<M, Status> {
    let descriptor = pool().and_then(|p| p.get_message_by_name(&M::full_name()));
    let descriptor = descriptor.ok_or_else(|| Status::internal("no descriptor"))?;
    let read = |m: &M| {
        DynamicMessage::decode(descriptor.clone(), m.encode_to_vec().as_slice())
            .map_err(|e| Status::internal(e.to_string()))
    };
    let (mut to, from) = (read(held)?, read(new)?);
    for path in paths {
        let parts: Vec<_> = path.split('.').collect();
        check(&to.descriptor(), &parts, path)?;
        put(&from, &mut to, &parts);
    }
    M::decode(to.encode_to_vec().as_slice()).map_err(|e| Status::internal(e.to_string()))
}

fn put(from: &DynamicMessage, to: &mut DynamicMessage, parts: &[&str]) {
    let [first, rest @ ..] = parts else { return };
    let descriptor = from.descriptor();
    let named = descriptor.get_field_by_name(first).or_else(|| descriptor.get_field_by_json_name(first));
    let Some(field) = named else { return };
    if rest.is_empty() {
        match from.has_field(&field) {
            true => to.set_field(&field, from.get_field(&field).into_owned()),
            false => to.clear_field(&field),
        }
    } else if field.is_map() {
        let key = MapKey::String(rest.join("."));
        let value = from.get_field(&field).as_map().and_then(|m| m.get(&key).cloned());
        if let Some(map) = to.get_field_mut(&field).as_map_mut() {
            match value {
                Some(v) => map.insert(key, v),
                None => map.remove(&key),
            };
        }
    } else if let (Some(f), Some(t)) =
        (from.get_field(&field).as_message(), to.get_field_mut(&field).as_message_mut())
    {
        put(f, t, rest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use syp_proto::v1;

    #[test]
    fn a_mask_keeps_what_it_names_and_refuses_what_is_not_there() {
        let i = v1::Instance {
            name: "n".into(),
            uid: "u".into(),
            spec: Some(v1::InstanceSpec { image: "x".into(), port: 80, ..Default::default() }),
            ..Default::default()
        };
        let mask = |p: &[&str]| FieldMask { paths: p.iter().map(|s| (*s).into()).collect() };
        let cut = keep(i.clone(), Some(&mask(&["uid", "spec.image"]))).unwrap();
        assert_eq!((cut.name.as_str(), cut.uid.as_str()), ("", "u"));
        assert_eq!(cut.spec.as_ref().map(|s| (s.image.as_str(), s.port)), Some(("x", 0)));
        assert_eq!(keep(i.clone(), None).unwrap(), i);
        assert!(keep(i.clone(), Some(&mask(&["spec.nope"]))).is_err());
        assert!(keep(i, Some(&mask(&["uid.x"]))).is_err());
    }
    #[test]
    fn what_a_mask_names_is_replaced_cleared_or_set_by_key() {
        let env = |all: &[(&str, &str)]| all.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        let held = v1::InstanceSpec {
            image: "a".into(),
            port: 80,
            env: env(&[("A", "1"), ("B.C", "2"), ("D", "3")]),
            ..Default::default()
        };
        let scaling = v1::Scaling { min: 3, ..Default::default() };
        let new = v1::InstanceSpec {
            image: "b".into(),
            env: env(&[("A", "9")]),
            scaling: Some(scaling),
            ..Default::default()
        };
        let out = apply(&held, &new, &["image", "port", "env.A", "env.B.C", "scaling.min"]).unwrap();
        assert_eq!((out.image.as_str(), out.port, out.scaling.unwrap().min), ("b", 0, 3));
        assert_eq!(out.env, env(&[("A", "9"), ("D", "3")]));
        assert!(apply(&held, &new, &["nope"]).is_err());
    }
}
