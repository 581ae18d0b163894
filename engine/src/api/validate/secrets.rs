//! References to secrets.
use crate::api::status::invalid;
use syp_proto::v1::InstanceSpec;
use tonic::Status;

const MAX_SECRETS: usize = 64;
/// Bytes of one secret: keys and certificates are far smaller.
pub(in crate::api) const MAX_SECRET: usize = 64 << 10;

/// Each has one name, a name of its own, and a value or one that is there already. Values are not in the words.
pub(super) fn check(s: &InstanceSpec) -> Result<(), Status> {
    let wrong = |what: &str| Err(invalid("spec.secrets", what));
    if s.secrets.len() > MAX_SECRETS {
        return wrong(&format!("at most {MAX_SECRETS}"));
    }
    let mut names = std::collections::BTreeSet::new();
    for r in &s.secrets {
        let name = crate::vault::name(r);
        if r.env.is_empty() == r.file.is_empty() {
            return wrong("a secret is an environment variable or a file: name one of the two");
        }
        if !names.insert(name) {
            return wrong(&format!("'{name}' is there twice"));
        }
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if !r.env.is_empty()
            && (!r.env.chars().all(is_word) || r.env.starts_with(|c: char| c.is_ascii_digit()))
        {
            return wrong(&format!("'{}' can't be the name of a variable", r.env));
        }
        if s.env.contains_key(&r.env) {
            return wrong(&format!("'{}' is a plain variable too; choose one", r.env));
        }
        let path = std::path::Path::new(&r.file);
        let plain = |c| matches!(c, std::path::Component::RootDir | std::path::Component::Normal(_));
        if !r.file.is_empty()
            && (!path.is_absolute()
                || !path.components().all(plain)
                || r.file.ends_with('/')
                || r.file.contains(['\0', ':']))
        {
            return wrong(&format!("'{}' can't be a file: an absolute path without '..' and ':'", r.file));
        }
        if r.value.len() > MAX_SECRET {
            return wrong(&format!("'{name}' is larger than {MAX_SECRET} bytes"));
        }
        if crate::vault::is_shared(r) {
            if !r.value.is_empty() {
                return wrong(&format!("'{name}' has a value and the name of a shared secret: choose one"));
            }
            continue;
        }
        if r.value.is_empty() && (r.secret.is_empty() || r.version.is_empty()) {
            return wrong(&format!("'{name}' has no value"));
        }
        if !r.env.is_empty() && (r.value.contains(&0) || std::str::from_utf8(&r.value).is_err()) {
            return wrong(&format!("the value of '{name}' is no text: hand it over as a file"));
        }
    }
    Ok(())
}
