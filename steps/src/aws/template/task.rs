//! The task: the gate and the app beside it, where their lines go, and what the agent that starts them may.
use super::{Site, get, reference, tags};
use crate::{
    aws::names::{self, ADMIN, PROGRAM, TRAFFIC},
    labels::TMP,
    registry,
};
use serde_json::{Value, json};
use syp_auth::door::Protocol;
use syp_engine::{door, step::Owner};
use syp_proto::v1::InstanceSpec;

/// For so long lines are kept.
const LOG_DAYS: u32 = 14;
/// ECS kills a container that does not end by then; at most 120 on Fargate.
pub(super) const STOP_S: u32 = 60;

pub(super) fn log_group(owner: &Owner) -> Value {
    json!({
        "Type": "AWS::Logs::LogGroup",
        "DeletionPolicy": "Delete",
        "UpdateReplacePolicy": "Delete",
        "Properties": { "LogGroupName": names::logs(owner), "RetentionInDays": LOG_DAYS, "Tags": tags(owner) },
    })
}

/// For the agent that starts a task (images, lines, secrets of this instance). The app itself gets no role at all.
pub(super) fn role(owner: &Owner, site: &Site) -> Value {
    let arn = |text: &str| json!({ "Fn::Sub": format!("arn:${{AWS::Partition}}:{text}") });
    let here = "${AWS::Region}:${AWS::AccountId}";
    let mut secrets = vec![site.gate_secret.as_str()];
    secrets
        .extend([site.app_secret.as_str(), site.pull_secret.as_str()].into_iter().filter(|s| !s.is_empty()));
    let mut may = vec![
        json!({
            "Sid": "Logs", "Effect": "Allow", "Action": ["logs:CreateLogStream", "logs:PutLogEvents"],
            "Resource": arn(&format!("logs:{here}:log-group:{}:*", names::logs(owner))),
        }),
        json!({ "Sid": "Secrets", "Effect": "Allow", "Action": "secretsmanager:GetSecretValue", "Resource": secrets }),
    ];
    if !site.repositories.is_empty() {
        let pull = ["ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer", "ecr:BatchCheckLayerAvailability"];
        may.push(json!({ "Sid": "Pull", "Effect": "Allow", "Action": pull, "Resource": site.repositories }));
        // the one action here that AWS allows on everything only
        may.push(json!({ "Sid": "Login", "Effect": "Allow", "Action": "ecr:GetAuthorizationToken", "Resource": "*" }));
    }
    json!({
        "Type": "AWS::IAM::Role",
        "Properties": {
            "Path": "/sypctl/",
            "Description": "Lets the agent of ECS, not the app, start the tasks of one instance",
            "PermissionsBoundary": site.boundary,
            "AssumeRolePolicyDocument": {
                "Version": "2012-10-17",
                "Statement": [{
                    "Effect": "Allow",
                    "Principal": { "Service": "ecs-tasks.amazonaws.com" },
                    "Action": "sts:AssumeRole",
                    "Condition": {
                        "StringEquals": { "aws:SourceAccount": reference("AWS::AccountId") },
                        "ArnLike": { "aws:SourceArn": arn(&format!("ecs:{here}:*")) },
                    },
                }],
            },
            "Policies": [{
                "PolicyName": "instance",
                "PolicyDocument": { "Version": "2012-10-17", "Statement": may },
            }],
            "Tags": tags(owner),
        },
    })
}

fn lines(owner: &Owner, prefix: &str) -> Value {
    json!({
        "LogDriver": "awslogs",
        "Options": {
            "awslogs-group": names::logs(owner),
            "awslogs-region": reference("AWS::Region"),
            "awslogs-stream-prefix": prefix,
        },
    })
}

fn gate(owner: &Owner, spec: &InstanceSpec, site: &Site) -> Value {
    let mut args: Vec<String> = ["serve", "--remote", "--listen"].into_iter().map(str::to_owned).collect();
    args.push(format!("0.0.0.0:{TRAFFIC}"));
    args.extend(["--admin".into(), format!("127.0.0.1:{ADMIN}")]);
    args.extend(["--app".into(), format!("127.0.0.1:{}", spec.port)]);
    let protocol = match door::protocol(spec) {
        Protocol::Auto => "auto",
        Protocol::Http1 => "http1",
        Protocol::H2c => "h2c",
    };
    args.extend(["--app-protocol".into(), protocol.into()]);
    let probe = door::probe(spec);
    if let Some(path) = probe.path {
        args.extend(["--app-probe".into(), path]);
    }
    args.extend(["--app-probe-period-ms".into(), probe.period_ms.to_string()]);
    args.extend(["--app-probe-timeout-ms".into(), probe.timeout_ms.to_string()]);
    args.extend(["--stop-seconds".into(), (STOP_S - 5).to_string()]);
    let from = |key: &str| format!("{}:{key}::", site.gate_secret);
    let mut out = json!({
        "Name": "gate",
        "Image": site.gate_image,
        "Essential": true,
        "ReadonlyRootFilesystem": true,
        "User": "64151",
        // images that were made of the program alone begin nothing by themselves
        "EntryPoint": [PROGRAM],
        "Command": args,
        // told to go before the app: what is under way has its app until then
        "DependsOn": [{ "ContainerName": "app", "Condition": "START" }],
        "StopTimeout": STOP_S,
        "PortMappings": [{ "ContainerPort": TRAFFIC, "Protocol": "tcp" }],
        "Secrets": [
            { "Name": "SYP_GATE_ADMIN_TOKEN", "ValueFrom": from("token") },
            { "Name": "SYP_GATE_CONFIG_JSON", "ValueFrom": from("config") },
        ],
        "LogConfiguration": lines(owner, "gate"),
    });
    // a login is for one registry
    if registry::server(&site.gate_image) == registry::server(&site.image) {
        with_login(&mut out, site);
    }
    out
}

fn with_login(container: &mut Value, site: &Site) {
    if !site.pull_secret.is_empty() {
        container["RepositoryCredentials"] = json!({ "CredentialsParameter": site.pull_secret });
    }
}

fn app(owner: &Owner, spec: &InstanceSpec, site: &Site) -> Value {
    let mut env: Vec<Value> = spec.env.iter().map(|(k, v)| json!({ "Name": k, "Value": v })).collect();
    env.sort_by(|a, b| a["Name"].as_str().cmp(&b["Name"].as_str()));
    let mut variables: Vec<&str> =
        spec.secrets.iter().map(|r| r.env.as_str()).filter(|v| !v.is_empty()).collect();
    variables.sort_unstable();
    let from = |v: &&str| json!({ "Name": v, "ValueFrom": format!("{}:{v}::", site.app_secret) });
    let mut out = json!({
        "Name": "app",
        "Image": site.image,
        "Essential": true,
        "Environment": env,
        "Secrets": variables.iter().map(from).collect::<Vec<_>>(),
        "StopTimeout": STOP_S,
        "LogConfiguration": lines(owner, "app"),
    });
    if !spec.entrypoint.is_empty() {
        out["EntryPoint"] = json!(spec.entrypoint);
    }
    if !spec.args.is_empty() {
        out["Command"] = json!(spec.args);
    }
    with_login(&mut out, site);
    if spec.read_only_root {
        out["ReadonlyRootFilesystem"] = json!(true);
        out["MountPoints"] = json!([{ "SourceVolume": "tmp", "ContainerPath": TMP, "ReadOnly": false }]);
    }
    out
}

pub(super) fn task(owner: &Owner, spec: &InstanceSpec, site: &Site) -> Value {
    let mut properties = json!({
        "Family": names::stack(owner),
        "Cpu": site.size.cpu.to_string(),
        "Memory": site.size.memory.to_string(),
        "NetworkMode": "awsvpc",
        "RequiresCompatibilities": ["FARGATE"],
        "RuntimePlatform": {
            "CpuArchitecture": if site.arm { "ARM64" } else { "X86_64" },
            "OperatingSystemFamily": "LINUX",
        },
        "ExecutionRoleArn": get("ExecutionRole", "Arn"),
        "ContainerDefinitions": [gate(owner, spec, site), app(owner, spec, site)],
        "Tags": tags(owner),
    });
    if spec.read_only_root {
        properties["Volumes"] = json!([{ "Name": "tmp" }]);
    }
    json!({ "Type": "AWS::ECS::TaskDefinition", "Properties": properties })
}
