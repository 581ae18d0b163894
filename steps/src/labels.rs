//! Names and labels of everything that is made, the same on every target: receipts and sweeps go by them.
use std::collections::HashMap;
use syp_engine::step::Owner;

/// Label of the engine's store.
pub const STORE: &str = "syp.dev/store";
/// Label of the incarnation.
pub const INSTANCE: &str = "syp.dev/instance";
/// Label of the user's name.
pub const NAME: &str = "syp.dev/name";
/// Label of the step that made it.
pub const STEP: &str = "syp.dev/step";
/// Label of the revision.
pub const REVISION: &str = "syp.dev/revision";
/// Label: what a replica was made for, so that one of another revision is never taken for it.
pub const TEMPLATE: &str = "syp.dev/template";

/// Where an app under a read-only root may write.
pub(crate) const TMP: &str = "/tmp";

/// Name of everything that a node makes: known before the call.
pub fn key(owner: &Owner, node: &str) -> String {
    format!("syp-{}-{}-{node}", owner.store, owner.uid.short())
}

/// Labels of everything that a node makes.
pub fn labels(owner: &Owner, node: &str) -> HashMap<String, String> {
    [
        (STORE, owner.store.to_string()),
        (INSTANCE, owner.uid.to_string()),
        (NAME, owner.name.clone()),
        (STEP, node.to_owned()),
        (REVISION, owner.revision.clone()),
    ]
    .into_iter()
    .map(|(k, v)| (k.to_owned(), v))
    .collect()
}

/// Made by this engine for this instance?
pub fn is_ours(owner: &Owner, labels: Option<&HashMap<String, String>>) -> bool {
    let get = |k| labels.and_then(|l| l.get(k)).map(String::as_str);
    get(STORE) == Some(owner.store.as_str()) && get(INSTANCE) == Some(owner.uid.to_string().as_str())
}
