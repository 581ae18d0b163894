//! The roles of `deploy/kubernetes/` are tight: whatever engines asked a real API server for, in all suites, they were allowed, and
//! nothing in the roles was never asked for. What they asked for is in the API server's own audit log (`SYP_K8S_AUDIT`).
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::collections::BTreeSet;

/// Group, resource (perhaps with a subresource) and verb.
type Right = (String, String, String);

/// What no audit log shows: upgrades to WebSocket ask for GET, and newer API servers want the right to create as well.
const UNSEEN: [(&str, &str, &str); 1] = [("", "pods/portforward", "create")];

fn role(file: &str) -> Result<BTreeSet<Right>> {
    let path = format!("{}/../deploy/kubernetes/{file}", env!("CARGO_MANIFEST_DIR"));
    let role: Value = serde_yaml_ng::from_str(&std::fs::read_to_string(path)?)?;
    let all = |v: &Value| -> Vec<String> {
        v.as_array().into_iter().flatten().filter_map(|s| s.as_str().map(str::to_owned)).collect()
    };
    let mut out = BTreeSet::new();
    for rule in role["rules"].as_array().context("rules")? {
        for group in all(&rule["apiGroups"]) {
            for resource in all(&rule["resources"]) {
                out.extend(all(&rule["verbs"]).into_iter().map(|v| (group.clone(), resource.clone(), v)));
            }
        }
    }
    Ok(out)
}

/// What somebody asked for: what was allowed, and what was not.
fn asked(log: &str, who: impl Fn(&str) -> bool) -> Result<[BTreeSet<Right>; 2]> {
    let mut out = [BTreeSet::new(), BTreeSet::new()];
    for line in log.lines() {
        let e: Value = serde_json::from_str(line).context("a line of the audit log")?;
        if !e["user"]["username"].as_str().is_some_and(&who) || e["objectRef"]["resource"].is_null() {
            continue;
        }
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        let of = &e["objectRef"];
        let mut resource = text(&of["resource"]);
        if let Some(sub) = of["subresource"].as_str() {
            resource = format!("{resource}/{sub}");
        }
        let (group, verb, code) =
            (text(&of["apiGroup"]), text(&e["verb"]), e["responseStatus"]["code"].as_u64());
        let into = &mut out[usize::from(code == Some(403))];
        // what an apply makes anew has to be allowed twice
        if verb == "patch" && code == Some(201) {
            into.insert((group.clone(), resource.clone(), "create".into()));
        }
        into.insert((group, resource, verb));
    }
    Ok(out)
}

fn all_used(file: &str, given: &BTreeSet<Right>, used: &BTreeSet<Right>) -> Result<()> {
    ensure!(used.len() > 30, "an audit log of nothing: {used:?}");
    let unseen = |r: &&Right| UNSEEN.contains(&(r.0.as_str(), r.1.as_str(), r.2.as_str()));
    let unused: Vec<_> = given.difference(used).filter(|r| !unseen(r)).collect();
    ensure!(unused.is_empty(), "in {file}, and never used: {unused:?}");
    println!("{file}: {} rights, each used", given.len());
    Ok(())
}

#[test]
fn the_roles_are_tight() -> Result<()> {
    let Some(file) = std::env::var_os("SYP_K8S_AUDIT") else { return Ok(()) };
    let log = std::fs::read_to_string(file)?;
    // the namespace of an engine's identity
    let of = |who: &str| -> Option<String> {
        Some(who.strip_prefix("system:serviceaccount:")?.strip_suffix(":syp-engine")?.to_owned())
    };

    let given = role("cluster-role.yaml")?;
    let [used, denied] = asked(&log, |who| of(who).as_deref() == Some("syp-system"))?;
    all_used("cluster-role.yaml", &given, &used)?;
    // kinds that no step makes are listed to be sure, where that is allowed
    let beyond: Vec<_> = denied.difference(&given).filter(|r| r.2 != "list").collect();
    ensure!(beyond.is_empty(), "asked for, and not in cluster-role.yaml: {beyond:?}");

    // what a teardown lists to be sure is denied in the one namespace, and that is no loss
    let given = role("namespace-role.yaml")?;
    let [used, denied] = asked(&log, |who| of(who).is_some_and(|n| n.starts_with("syp-test-")))?;
    all_used("namespace-role.yaml", &given, &used)?;
    let beyond: Vec<_> = denied
        .difference(&given)
        .filter(|r| r.2 != "list" && r.2 != "watch" && r.1 != "namespaces")
        .collect();
    ensure!(beyond.is_empty(), "asked for in vain in the one namespace: {beyond:?}");
    Ok(())
}
