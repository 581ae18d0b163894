//! Wrong files of `sypctl apply`.
use super::Expected;
use anyhow::Result;
use std::{fs, path::Path};

const GOOD: &str =
    "apiVersion: syp.v1\nkind: Instance\nname: a\nspec:\n  image: syp-test/hello\n  port: 8080\n";

/// Input as it is shown, its words, and what it gets.
pub fn table(dir: &Path) -> Result<Vec<(String, Vec<String>, Expected)>> {
    let dir = dir.join("files");
    fs::create_dir(&dir)?;
    let mut out = Vec::new();
    let usage = |says| (2, "INVALID_ARGUMENT", says);
    for (name, from, to, wanted) in [
        ("no-name", "name: a\n", "", usage("missing field `name`")),
        ("upper-case", "name: a", "name: A", usage("lower-case letters")),
        ("of-kubernetes", "kind: Instance", "kind: Pod", usage("this version reads kind Instance")),
        ("of-the-future", "syp.v1", "syp.v9", usage("apiVersion syp.v1")),
        ("mistyped", "port:", "prot:", usage("prot")),
        ("a-word-for-a-number", "8080", "eighty", usage("port")),
        ("port-too-high", "8080", "70000", usage("spec.port: 1 to 65534")),
        ("no-image", "image: syp-test/hello", "image: ''", usage("spec.image")),
        ("two-images", "port:", "image: other\n  port:", usage("image")),
        ("another-target", "spec:", "spec:\n  target: mars", (2, "TARGET_UNKNOWN", "no target 'mars'")),
        ("nobody", "spec:", "allow: [alice]\nspec:", usage("user:ADDRESS")),
        ("a-secret-in-it", "spec:", "spec:\n  secrets: [{env: P, value: eA==}]", usage("does not belong")),
        ("a-secret-that-is-not-there", "spec:", "secrets: [{env: P, from: ./none}]\nspec:", usage("none")),
        ("spaces-in-a-variable", "spec:", "spec:\n  env: {A B: '1'}", usage("name of a variable")),
        ("no-yaml", "name: a", "name: [", usage("line")),
        ("a-word", GOOD, "hello\n", usage("an instance with apiVersion, kind, name and spec")),
        ("empty", GOOD, "", usage("holds no instance")),
        (
            "one-of-two-is-wrong",
            GOOD,
            &format!("{GOOD}---\n{}", GOOD.replace("name: a", "name: B")),
            usage("document 2"),
        ),
        ("the-same-twice", GOOD, &format!("{GOOD}---\n{GOOD}"), usage("is there twice")),
    ] {
        let text = if from == GOOD { to.to_owned() } else { GOOD.replace(from, to) };
        let file = dir.join(format!("{name}.yaml"));
        fs::write(&file, text)?;
        out.push(row(&format!("{name}.yaml"), &file, wanted));
    }
    fs::write(dir.join("no-text.yaml"), b"\xff\xfe")?;
    out.push(row("no-text.yaml", &dir.join("no-text.yaml"), usage("UTF-8")));
    out.push(row("none.yaml", &dir.join("none.yaml"), usage("No such file")));
    let bare = dir.join("bare");
    fs::create_dir(&bare)?;
    out.push(row("an-empty-folder/", &bare, usage("has no .yaml")));
    Ok(out)
}

fn row(shown: &str, file: &Path, wanted: Expected) -> (String, Vec<String>, Expected) {
    let args = ["apply", "-f", &file.display().to_string(), "--yes"].map(str::to_owned);
    (format!("sypctl apply -f {shown}"), args.into(), wanted)
}
