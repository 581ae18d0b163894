//! Which role each RPC needs. A test walks the descriptor set: an RPC that is not in here is refused, and the test fails.
use syp_auth::policy::Role;

/// What a method asks of its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Nothing: health only.
    Open,
    /// Any valid token.
    Authenticated,
    /// The engine's own user, over its Unix socket (peer credentials). It is how the first token is had.
    LocalPeer,
    /// A role of the control policy.
    Global(Role),
    /// A role, from the control policy or from the operators of the instance or secret; the handler asks for it with that in hand.
    Instance(Role),
}

/// Every method, as the audit trail names them.
pub fn methods() -> impl Iterator<Item = &'static str> {
    TABLE.iter().map(|(m, _)| *m)
}

/// Method path without the leading slash, and what it needs.
const TABLE: &[(&str, Need)] = &[
    ("grpc.health.v1.Health/Check", Need::Open),
    ("grpc.health.v1.Health/Watch", Need::Open),
    ("grpc.health.v1.Health/List", Need::Authenticated),
    ("grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Need::Global(Role::Operator)),
    ("google.longrunning.Operations/ListOperations", Need::Instance(Role::Viewer)),
    ("google.longrunning.Operations/GetOperation", Need::Instance(Role::Viewer)),
    ("google.longrunning.Operations/DeleteOperation", Need::Global(Role::Admin)),
    ("google.longrunning.Operations/CancelOperation", Need::Instance(Role::Operator)),
    ("google.longrunning.Operations/WaitOperation", Need::Instance(Role::Viewer)),
    ("syp.v1.Instances/CreateInstance", Need::Global(Role::Operator)),
    ("syp.v1.Instances/GetInstance", Need::Instance(Role::Viewer)),
    ("syp.v1.Instances/ListInstances", Need::Instance(Role::Viewer)),
    ("syp.v1.Instances/UpdateInstance", Need::Instance(Role::Operator)),
    ("syp.v1.Instances/TransitionInstance", Need::Instance(Role::Operator)),
    ("syp.v1.Instances/RollbackInstance", Need::Instance(Role::Operator)),
    ("syp.v1.Instances/DeleteInstance", Need::Instance(Role::Operator)),
    ("syp.v1.Instances/PlanInstance", Need::Instance(Role::Viewer)),
    ("syp.v1.Instances/ListInstanceRevisions", Need::Instance(Role::Viewer)),
    ("syp.v1.Instances/ListResources", Need::Instance(Role::Viewer)),
    ("syp.v1.Instances/AdoptInstance", Need::Global(Role::Admin)),
    ("syp.v1.Instances/CheckDrift", Need::Instance(Role::Operator)),
    ("syp.v1.Instances/GetTeardownReceipt", Need::Instance(Role::Viewer)),
    ("syp.v1.Instances/GetStateGraph", Need::Instance(Role::Viewer)),
    ("syp.v1.Instances/WatchInstances", Need::Instance(Role::Viewer)),
    ("syp.v1.Instances/StreamLogs", Need::Instance(Role::Viewer)),
    ("syp.v1.Instances/ListInstanceEvents", Need::Instance(Role::Viewer)),
    ("syp.v1.Instances/WatchInstanceEvents", Need::Instance(Role::Viewer)),
    ("syp.v1.OperationEvents/WatchOperation", Need::Instance(Role::Viewer)),
    ("syp.v1.OperationEvents/PauseOperation", Need::Instance(Role::Operator)),
    ("syp.v1.OperationEvents/RetryOperation", Need::Instance(Role::Operator)),
    ("syp.v1.Costs/EstimateCost", Need::Global(Role::Viewer)),
    ("syp.v1.Costs/GetCost", Need::Instance(Role::Viewer)),
    ("syp.v1.Costs/QueryCosts", Need::Global(Role::Viewer)),
    ("syp.v1.Costs/WatchCost", Need::Instance(Role::Viewer)),
    ("syp.v1.Costs/ListOfferings", Need::Global(Role::Viewer)),
    ("syp.v1.Costs/UpdateBudget", Need::Instance(Role::Operator)),
    ("syp.v1.Costs/ListTariffs", Need::Global(Role::Viewer)),
    ("syp.v1.Costs/SetTariff", Need::Global(Role::Admin)),
    ("syp.v1.Costs/GetPrices", Need::Global(Role::Viewer)),
    ("syp.v1.Costs/RefreshPrices", Need::Global(Role::Admin)),
    ("syp.v1.Metrics/GetMetrics", Need::Instance(Role::Viewer)),
    ("syp.v1.Metrics/QueryMetrics", Need::Instance(Role::Viewer)),
    ("syp.v1.Metrics/WatchMetrics", Need::Instance(Role::Viewer)),
    ("syp.v1.Metrics/ListMetrics", Need::Instance(Role::Viewer)),
    // of all instances, whoever their operators are
    ("syp.v1.Metrics/Scrape", Need::Global(Role::Viewer)),
    // the same over plain HTTP, on a listener of its own
    ("metrics", Need::Global(Role::Viewer)),
    ("syp.v1.Access/WhoAmI", Need::Authenticated),
    ("syp.v1.Access/IssueLocalToken", Need::LocalPeer),
    ("syp.v1.Access/GetAccessPolicy", Need::Instance(Role::Viewer)),
    ("syp.v1.Access/SetAccessPolicy", Need::Instance(Role::Operator)),
    ("syp.v1.Access/ListPolicyChanges", Need::Instance(Role::Viewer)),
    ("syp.v1.Access/TestAccess", Need::Instance(Role::Operator)),
    ("syp.v1.Access/CreateToken", Need::Instance(Role::Operator)),
    ("syp.v1.Access/ListTokens", Need::Instance(Role::Operator)),
    ("syp.v1.Access/RevokeToken", Need::Instance(Role::Operator)),
    ("syp.v1.Secrets/CreateSecret", Need::Global(Role::Operator)),
    ("syp.v1.Secrets/AddSecretVersion", Need::Instance(Role::Operator)),
    ("syp.v1.Secrets/GetSecret", Need::Instance(Role::Viewer)),
    ("syp.v1.Secrets/ListSecrets", Need::Instance(Role::Viewer)),
    ("syp.v1.Secrets/UpdateSecret", Need::Instance(Role::Operator)),
    ("syp.v1.Secrets/DeleteSecret", Need::Instance(Role::Operator)),
    ("syp.v1.Providers/ListProviders", Need::Global(Role::Viewer)),
    ("syp.v1.Providers/CheckProvider", Need::Global(Role::Viewer)),
    ("syp.v1.Providers/SweepOrphans", Need::Global(Role::Admin)),
    ("syp.v1.Server/GetServerInfo", Need::Authenticated),
    ("syp.v1.Server/ShutdownServer", Need::Global(Role::Admin)),
    ("syp.v1.Server/CheckStore", Need::Global(Role::Admin)),
    ("syp.v1.Server/BackupStore", Need::Global(Role::Admin)),
    ("syp.v1.Audit/ListAuditEvents", Need::Global(Role::Admin)),
    ("syp.v1.Audit/WatchAuditEvents", Need::Global(Role::Admin)),
    ("syp.v1.Audit/CheckAuditTrail", Need::Global(Role::Admin)),
];

/// What a method needs; `None`: unknown, refused.
pub fn need(path: &str) -> Option<Need> {
    let path = path.strip_prefix('/')?;
    TABLE.iter().find(|(p, _)| *p == path).map(|(_, n)| *n)
}

/// Whether a method may change something: its audit row is on disk before its answer goes out.
pub fn changes(path: &str) -> bool {
    const VERBS: [&str; 15] = [
        "Create",
        "Update",
        "Delete",
        "Set",
        "Refresh",
        "Transition",
        "Rollback",
        "Adopt",
        "Retry",
        "Cancel",
        "Pause",
        "Sweep",
        "Add",
        "Revoke",
        "Shutdown",
    ];
    let method = path.rsplit('/').next().unwrap_or_default();
    VERBS.iter().any(|v| method.starts_with(v))
}

/// Whether a method begins something that writes much; what takes away, ends or undoes is none of these.
pub fn grows(path: &str) -> bool {
    let method = path.rsplit('/').next().unwrap_or_default();
    ["Create", "Update", "Add", "Rollback", "Adopt"].iter().any(|v| method.starts_with(v))
}

/// Whether a method does nothing but wait: it ends with its caller.
pub fn only_waits(path: &str) -> bool {
    path == "/google.longrunning.Operations/WaitOperation"
}

/// Whether a method answers with a stream, which would go on for ever.
pub fn is_stream(path: &str) -> bool {
    let Some((service, method)) = path.trim_start_matches('/').split_once('/') else { return false };
    let service = syp_proto::pool().and_then(|p| p.get_service_by_name(service));
    // of health and reflection, which are not ours to describe
    let Some(service) = service else { return matches!(method, "Watch" | "ServerReflectionInfo") };
    service.methods().any(|m| m.name() == method && m.is_server_streaming())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rpc_has_a_role() {
        let pool = syp_proto::pool().unwrap();
        let mut seen = 0;
        for service in pool
            .services()
            .filter(|s| s.full_name().starts_with("syp.") || s.full_name().contains("longrunning"))
        {
            for method in service.methods() {
                let path = format!("/{}/{}", service.full_name(), method.name());
                assert!(need(&path).is_some(), "{path} has no role");
                assert_ne!(need(&path), Some(Need::Open), "{path} must not be open");
                seen += 1;
            }
        }
        assert!(seen > 40, "the descriptor set was not walked");
        let reading = [
            "Get",
            "List",
            "Watch",
            "Stream",
            "Query",
            "Estimate",
            "Plan",
            "Check",
            "Test",
            "WhoAmI",
            "Wait",
            "IssueLocalToken",
            "Scrape",
            "Backup",
            "metrics",
        ];
        for (path, need) in TABLE {
            let method = path.rsplit('/').next().unwrap();
            let reads = *need == Need::Open
                || reading.iter().any(|v| method.starts_with(v))
                || method == "ServerReflectionInfo";
            assert_ne!(reads, changes(path), "{path}: does it change something or not?");
        }
        assert_eq!(need("/syp.v1.Instances/Nope"), None);
        assert!(is_stream("/syp.v1.Instances/StreamLogs") && is_stream("/grpc.health.v1.Health/Watch"));
        assert!(!is_stream("/syp.v1.Server/ShutdownServer") && !is_stream("/grpc.health.v1.Health/Check"));
    }
}
