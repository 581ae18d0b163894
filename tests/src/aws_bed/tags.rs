//! What carries tags: resources of living stacks, revisions that nobody has deleted, tasks, and secrets.
use super::{
    Tags, cloudformation,
    template::{listed_tags, tagged_arn, tags},
    wire::Refused,
    world::{Shared, World},
};
use serde_json::{Value, json};

/// A key, and which values it may have; none: any.
pub type Filter = (String, Vec<String>);

/// Answers `GetResources`.
pub async fn get(shared: &Shared, asked: &Value) -> Result<Value, Refused> {
    let words = |v: &Value| -> Vec<String> {
        v.as_array().into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned)).collect()
    };
    let filters = asked["TagFilters"].as_array().into_iter().flatten();
    let filters: Vec<Filter> =
        filters.map(|f| (f["Key"].as_str().unwrap_or_default().to_owned(), words(&f["Values"]))).collect();
    let kinds = words(&asked["ResourceTypeFilters"]);
    let all = tagged(shared, &filters).await.map_err(|e| Refused::new("InternalServiceException", e))?;
    let listed = all.into_iter().filter(|(arn, _)| kinds.is_empty() || kinds.iter().any(|k| is(arn, k)));
    let list: Vec<Value> = listed
        .map(|(arn, tags)| json!({ "ResourceARN": arn, "Tags": listed_tags(&tags, "Key", "Value") }))
        .collect();
    Ok(json!({ "PaginationToken": "", "ResourceTagMappingList": list }))
}

/// `SERVICE` or `SERVICE:TYPE` of an ARN.
fn is(arn: &str, kind: &str) -> bool {
    let parts: Vec<&str> = arn.splitn(6, ':').collect();
    let [_, _, service, _, _, rest] = parts.as_slice() else { return false };
    let kind_of = rest.split(['/', ':']).next().unwrap_or_default();
    kind.split_once(':').map_or(kind == *service, |(s, t)| s == *service && t == kind_of)
}

/// ARN and tags of everything that has them all.
pub async fn tagged(shared: &Shared, filters: &[Filter]) -> Result<Vec<(String, Tags)>, String> {
    let mut all = shared.see(|w| of_stacks(shared, w));
    all.extend(secrets(shared).await?);
    let has = |tags: &Tags| {
        filters.iter().all(|(k, any)| tags.get(k).is_some_and(|v| any.is_empty() || any.contains(v)))
    };
    all.retain(|(_, tags)| has(tags));
    Ok(all)
}

fn of_stacks(shared: &Shared, w: &World) -> Vec<(String, Tags)> {
    let mut out = vec![];
    for s in w.stacks.iter().filter(|s| s.status != "DELETE_COMPLETE") {
        out.push((s.id.clone(), s.shape.tags.clone()));
        for (logical, r) in &s.shape.resources {
            if let Some(arn) = tagged_arn(shared, r) {
                out.push((arn, cloudformation::tags_of(s, logical, &r.properties)));
            }
        }
    }
    out.extend(w.definitions.iter().map(|d| (d.arn.clone(), d.tags.clone())));
    for t in w.tasks.values().filter(|t| t.last != "STOPPED") {
        if let Some(s) = w.services.get(&t.service) {
            out.push((t.arn.clone(), s.tags.clone()));
        }
    }
    out
}

/// Those that are there; what is planned for deletion is not listed.
async fn secrets(shared: &Shared) -> Result<Vec<(String, Tags)>, String> {
    let (mut out, mut page) = (vec![], Value::Null);
    loop {
        let mut asked = json!({ "MaxResults": 100 });
        if !page.is_null() {
            asked["NextToken"] = page;
        }
        let said = shared.behind.json("secretsmanager", "secretsmanager.ListSecrets", &asked).await;
        let said = said.map_err(|e| format!("{e:#}"))?;
        for s in said["SecretList"].as_array().into_iter().flatten() {
            out.push((s["ARN"].as_str().unwrap_or_default().to_owned(), tags(&s["Tags"])));
        }
        page = said["NextToken"].clone();
        if page.is_null() {
            return Ok(out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::is;

    #[test]
    fn a_kind_is_a_service_or_one_of_its_types() {
        let arn = "arn:aws:ecs:us-east-1:000000000000:task-definition/a:1";
        assert!(is(arn, "ecs") && is(arn, "ecs:task-definition"));
        assert!(!is(arn, "ecs:task") && !is(arn, "ec2") && !is("x", "ecs"));
    }
}
