//! `syp.yaml`: instances as files say. The spec has the field names of the API's JSON; what is not known is refused by name.
use crate::{failure::Failure, parse, secrets};
use serde::Deserialize;
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    io::Read as _,
    path::{Path, PathBuf},
};
use syp_proto::{
    from_json,
    v1::{self, AccessPolicy, InstanceSpec, access_policy::Effect},
};

/// One instance that is wanted.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its spec, access and operators in it.
    pub spec: InstanceSpec,
}

#[derive(Debug, Deserialize)]
#[serde(
    rename_all = "camelCase",
    deny_unknown_fields,
    expecting = "an instance with apiVersion, kind, name and spec"
)]
struct Document {
    api_version: String,
    kind: String,
    name: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    /// Short for `spec.access`: members, as `--allow` takes them.
    #[serde(default)]
    allow: Vec<String>,
    /// Short for `spec.operators`.
    #[serde(default)]
    operators: Vec<String>,
    /// Values come from files beside the manifest or from shared secrets, never from it.
    #[serde(default)]
    secrets: Vec<Secret>,
    spec: Value,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Secret {
    #[serde(default)]
    env: String,
    #[serde(default)]
    file: String,
    /// The file with the value, relative to the manifest; or
    from: Option<PathBuf>,
    /// the name of a shared secret,
    secret: Option<String>,
    /// perhaps one version of it.
    version: Option<u32>,
}

/// Reads all files, folders and standard input (`-`); in the order given, a folder's files by name.
///
/// # Errors
/// What is wrong, with file and document.
pub fn read(from: &[PathBuf]) -> Result<Vec<Manifest>, Failure> {
    let mut out = Vec::new();
    let mut names = BTreeSet::new();
    for path in from {
        for (origin, text) in texts(path)? {
            let all =
                documents(&text, &beside(path)).map_err(|e| Failure::usage(format!("{origin}: {e}")))?;
            if all.is_empty() {
                return Err(Failure::usage(format!("{origin} holds no instance")));
            }
            for m in all {
                if !names.insert(m.name.clone()) {
                    return Err(Failure::usage(format!("{origin}: '{}' is there twice", m.name)));
                }
                out.push(m);
            }
        }
    }
    Ok(out)
}

fn texts(path: &Path) -> Result<Vec<(String, String)>, Failure> {
    let failed = |p: &Path, e: std::io::Error| Failure::usage(format!("{}: {e}", p.display()));
    if path == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map_err(|e| failed(path, e))?;
        return Ok(vec![("standard input".into(), text)]);
    }
    let mut files = vec![path.to_path_buf()];
    if path.is_dir() {
        let wanted = |p: &PathBuf| {
            let ending = p.extension().and_then(|e| e.to_str()).unwrap_or_default();
            p.is_file() && ["yaml", "yml", "json"].contains(&ending)
        };
        let entries = std::fs::read_dir(path).map_err(|e| failed(path, e))?;
        files = entries.filter_map(|e| Some(e.ok()?.path())).filter(wanted).collect();
        files.sort();
        if files.is_empty() {
            let words = format!("{} has no .yaml, .yml or .json file", path.display());
            return Err(Failure::usage(words));
        }
    }
    let one = |p: PathBuf| match std::fs::read_to_string(&p) {
        Ok(text) => Ok((p.display().to_string(), text)),
        Err(e) => Err(failed(&p, e)),
    };
    files.into_iter().map(one).collect()
}

/// The folder that files named in a manifest are looked for in.
fn beside(manifest: &Path) -> PathBuf {
    let folder = if manifest.is_dir() { Some(manifest) } else { manifest.parent() };
    folder.map_or_else(|| ".".into(), Path::to_path_buf)
}

fn documents(text: &str, beside: &Path) -> Result<Vec<Manifest>, String> {
    let mut out = Vec::new();
    for (n, d) in serde_yaml_ng::Deserializer::from_str(text).enumerate() {
        let at = |e: &dyn std::fmt::Display| format!("document {}: {e}", n + 1);
        // by way of YAML's own value, which refuses a key that is there twice
        let value = serde_yaml_ng::Value::deserialize(d).map_err(|e| at(&e))?;
        let value = serde_json::to_value(value).map_err(|e| at(&e))?;
        if value.is_null() {
            continue;
        }
        let d: Document = serde_json::from_value(value).map_err(|e| at(&e))?;
        out.push(manifest(d, beside).map_err(|e| at(&e))?);
    }
    Ok(out)
}

fn manifest(d: Document, beside: &Path) -> Result<Manifest, String> {
    if (d.api_version.as_str(), d.kind.as_str()) != ("syp.v1", "Instance") {
        return Err(format!(
            "'{}' of '{}' is not known; this version reads kind Instance of apiVersion syp.v1",
            d.kind, d.api_version
        ));
    }
    parse::name(&d.name).map_err(|e| format!("name '{}': {e}", d.name))?;
    if d.name.contains(['@', '/']) {
        return Err(format!("name '{}': the name alone, without project and uid", d.name));
    }
    let mut spec: InstanceSpec = from_json(d.spec).map_err(|e| format!("spec: {e}"))?;
    if spec.secrets.iter().any(|s| !s.value.is_empty()) {
        return Err(
            "spec: the value of a secret does not belong into a file that is kept: use 'secrets' with 'from'"
                .into(),
        );
    }
    for s in d.secrets {
        let from = match (s.from, s.secret, s.version) {
            (Some(from), None, None) => beside.join(from),
            (None, Some(name), version) => {
                let version = version.map(|v| v.to_string());
                let r = secrets::reference(&name, version.as_deref());
                spec.secrets.push(v1::SecretRef { env: s.env, file: s.file, ..r });
                continue;
            }
            _ => {
                return Err("secrets: each has 'from' (a file) or 'secret' (the name of a shared one)".into());
            }
        };
        let mut value = std::fs::read(&from).map_err(|e| format!("secrets: {}: {e}", from.display()))?;
        if !s.env.is_empty() && value.last() == Some(&b'\n') {
            value.pop();
        }
        if value.is_empty() {
            return Err(format!("secrets: {} is empty", from.display()));
        }
        spec.secrets.push(v1::SecretRef { env: s.env, file: s.file, value, ..Default::default() });
    }
    if spec.target.is_empty() {
        spec.target = "docker".into();
    }
    if let Some(s) = spec.scaling.as_mut().filter(|s| s.max == 0) {
        s.max = s.min;
    }
    for (field, members, policy, role) in [
        ("allow", &d.allow, &mut spec.access, v1::Role::User),
        ("operators", &d.operators, &mut spec.operators, v1::Role::Operator),
    ] {
        if members.is_empty() {
            continue;
        }
        if policy.is_some() {
            return Err(format!("'{field}' and its long form in spec: choose one"));
        }
        let members: Result<Vec<_>, _> = members.iter().map(|m| parse::member(m)).collect();
        let members = members.map_err(|e| format!("{field}: {e}"))?;
        let rules = parse::rules(&members, Effect::Allow, role, &[]);
        *policy = Some(AccessPolicy { rules, etag: String::new() });
    }
    Ok(Manifest { name: d.name, labels: d.labels, spec })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHOP: &str = "apiVersion: syp.v1\nkind: Instance\nname: shop\nallow: [a@x.org]\nspec: {image: nginx, port: 80, scaling: {min: 2}, env: {A: '1'}}\n";

    #[test]
    fn a_file_is_one_instance_or_several() {
        let two = format!("{SHOP}---\n{}---\n", SHOP.replace("shop", "other"));
        let all = documents(&two, Path::new(".")).unwrap();
        assert_eq!(all.iter().map(|m| m.name.as_str()).collect::<Vec<_>>(), ["shop", "other"]);
        let s = &all[0].spec;
        assert_eq!((s.image.as_str(), s.port, s.target.as_str()), ("nginx", 80, "docker"));
        assert_eq!((s.scaling.unwrap().max, s.env["A"].as_str()), (2, "1"));
        assert_eq!(s.access.as_ref().unwrap().rules[0].members, ["user:a@x.org"]);
    }

    #[test]
    fn a_shared_secret_is_named_with_or_without_a_version() {
        let words = "secrets: [{env: A, secret: pw}, {file: /k, secret: pw, version: 3}]\nspec: {";
        let all = documents(&SHOP.replace("spec: {", words), Path::new(".")).unwrap();
        let s = &all[0].spec.secrets;
        assert_eq!((s[0].secret.as_str(), s[0].version.as_str(), s[0].pinned), ("pw", "", false));
        assert_eq!((s[1].file.as_str(), s[1].version.as_str(), s[1].pinned), ("/k", "3", true));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let wrong = |from: &str, to: &str| documents(&SHOP.replace(from, to), Path::new(".")).unwrap_err();
        for (from, to, says) in [
            ("image:", "imgae:", "imgae"),
            ("port: 80", "port: x", "port"),
            ("name: shop", "name: Shop", "lower-case"),
            ("name: shop", "nmae: shop", "nmae"),
            ("syp.v1", "syp.v9", "syp.v9"),
            ("kind: Instance", "kind: Pod", "Pod"),
            ("a@x.org", "alice", "user:ADDRESS"),
            ("spec: {", "spec: {access: {}, ", "choose one"),
            ("port: 80", "port: 80, port: 81", "port"),
            ("spec: {image", "spec: [image", "document 1"),
            ("spec: {", "secrets: [{env: A, from: ./nowhere}]\nspec: {", "nowhere"),
            ("spec: {", "secrets: [{env: A}]\nspec: {", "'from'"),
            ("spec: {", "secrets: [{env: A, from: ./x, secret: y}]\nspec: {", "'secret'"),
            ("spec: {", "secrets: [{env: A, from: ./x, version: 1}]\nspec: {", "'from'"),
            ("spec: {", "spec: {secrets: [{env: A, value: eA==}], ", "does not belong"),
        ] {
            let said = wrong(from, to);
            assert!(said.contains(says), "{to}: {said}");
        }
    }

    #[test]
    fn a_folder_is_read_by_name_and_a_name_twice_is_refused() {
        let d = tempfile::tempdir().unwrap();
        assert!(read(&[d.path().into()]).unwrap_err().message().contains("no .yaml"));
        std::fs::write(d.path().join("b.yaml"), SHOP).unwrap();
        std::fs::write(d.path().join("a.yml"), SHOP.replace("shop", "other")).unwrap();
        std::fs::write(d.path().join("note.txt"), "x").unwrap();
        let names: Vec<_> = read(&[d.path().into()]).unwrap().into_iter().map(|m| m.name).collect();
        assert_eq!(names, ["other", "shop"]);
        std::fs::write(d.path().join("c.yaml"), SHOP).unwrap();
        assert!(read(&[d.path().into()]).unwrap_err().message().contains("twice"));
        assert!(read(&["/nowhere".into()]).unwrap_err().message().contains("/nowhere"));
    }
}
