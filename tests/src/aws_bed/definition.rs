//! Task definitions: revisions of a family, which stay when nobody has them any more, until somebody deletes them.
use super::{
    Tags,
    world::{Definition, Shared, World, now},
};

/// Registers the next revision; its ARN.
pub fn register(shared: &Shared, w: &mut World, properties: &serde_json::Value, tags: Tags) -> String {
    let family = properties["Family"].as_str().unwrap_or_default().to_owned();
    let revisions = w.definitions.iter().filter(|d| d.family == family).map(|d| d.revision);
    let revision = revisions.max().unwrap_or(0) + 1;
    let arn = shared.arn("ecs", &format!("task-definition/{family}:{revision}"));
    let properties = properties.clone();
    let made = now();
    w.definitions.push(Definition {
        arn: arn.clone(),
        family,
        revision,
        properties,
        tags,
        active: true,
        made,
        ended: None,
    });
    arn
}

/// Makes one inactive. What runs of it runs on.
pub fn deregister(w: &mut World, arn: &str) {
    if let Some(d) = w.definitions.iter_mut().find(|d| d.arn == arn) {
        d.active = false;
        d.ended = Some(now());
    }
}

/// By ARN, `FAMILY:REVISION`, or the newest active one of a family.
pub fn find<'a>(w: &'a World, name: &str) -> Option<&'a Definition> {
    let tail = name.rsplit_once("task-definition/").map_or(name, |(_, tail)| tail);
    if let Some((family, revision)) = tail.split_once(':') {
        return w.definitions.iter().find(|d| d.family == family && d.revision.to_string() == revision);
    }
    w.definitions.iter().filter(|d| d.family == tail && d.active).max_by_key(|d| d.revision)
}
