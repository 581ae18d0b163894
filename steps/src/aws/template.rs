//! The stack of an instance, rendered for it alone: no parameters, no conditions. Template parameters can't loop over secrets and are
//! cut at 4,096 bytes, and a template with nothing left to decide is what `--plan` shows and what its digest stands for.
//! It began as a template that was linted and deployed on two emulators; why each resource is as it is, says the comment beside it.
use super::{
    names::{self, ADMIN, PROGRAM, TRAFFIC},
    size::Size,
};
use crate::{
    labels::{INSTANCE, NAME, STORE, TEMPLATE, TMP},
    registry,
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use syp_auth::door::Protocol;
use syp_engine::{door, scaling, step::Owner};
use syp_proto::v1::InstanceSpec;

/// What `CreateStack` takes in one request.
pub const LIMIT: usize = 51_200;
/// For so long lines are kept.
const LOG_DAYS: u32 = 14;
/// A task that is told to go finishes what it has; the load balancer sends nothing new.
const DEREGISTER_S: u32 = 30;
/// ECS kills a container that does not end by then; at most 120 on Fargate.
const STOP_S: u32 = 60;

/// Where an instance lives, and with what.
#[derive(Clone, Debug)]
pub struct Site {
    /// Its network.
    pub vpc: String,
    /// Two or more of its subnets, each in another zone.
    pub subnets: Vec<String>,
    /// Whether tasks need an address of their own to pull images: subnets without a NAT.
    pub public_ip: bool,
    /// Of the certificate that the domain is served with.
    pub certificate: String,
    /// The name that callers use.
    pub domain: String,
    /// Zone in which that name gets a record; empty: its owner makes one.
    pub zone: String,
    /// The most that the role of a task may do.
    pub boundary: String,
    /// The user's image, by digest.
    pub image: String,
    /// The gate's, by digest.
    pub gate_image: String,
    /// What both are made for.
    pub arm: bool,
    /// Of a task.
    pub size: Size,
    /// Of the secret with the gate's token and what it begins with.
    pub gate_secret: String,
    /// Of the secret with the app's values, by variable; empty without any.
    pub app_secret: String,
    /// Of the secret with the login of a private registry; empty without one.
    pub pull_secret: String,
    /// Of the images' repositories, where those are the account's own.
    pub repositories: BTreeSet<String>,
}

fn tags(owner: &Owner) -> Value {
    json!([
        { "Key": INSTANCE, "Value": owner.uid.to_string() },
        { "Key": NAME, "Value": owner.name },
        { "Key": STORE, "Value": owner.store.to_string() },
    ])
}

/// Which word of a spec CloudFormation would put something else in place of: it resolves such references in any text of a template,
/// and knows no way to write one that is meant as it stands.
pub fn resolved(spec: &InstanceSpec) -> Option<&str> {
    let words = spec.env.iter().flat_map(|(k, v)| [k, v]).chain(&spec.entrypoint).chain(&spec.args);
    let path = spec.probe.iter().map(|p| &p.path);
    words.chain(path).map(String::as_str).find(|w| w.contains("{{resolve:"))
}

/// A template, and its digest, which is in its metadata too. A spec with something [`resolved`] is refused before.
pub fn render(owner: &Owner, spec: &InstanceSpec, site: &Site) -> (String, String) {
    let mut resources = BTreeMap::from([
        ("AlbSecurityGroup", front_group(owner, site)),
        ("Cluster", cluster(owner)),
        ("ExecutionRole", role(owner, site)),
        ("HttpRedirectListener", redirect()),
        ("HttpsListener", listener(site)),
        ("LoadBalancer", load_balancer(owner, site)),
        ("LogGroup", log_group(owner)),
        ("Service", service(owner, spec, site)),
        ("TargetGroup", target_group(owner, site)),
        ("TaskDefinition", task(owner, spec, site)),
        ("TaskSecurityGroup", task_group(owner, site)),
    ]);
    if !site.zone.is_empty() {
        resources.insert("DnsRecord", record(site));
    }
    let scaling = spec.scaling.unwrap_or_default();
    if scaling.max > scaling.min {
        resources.insert("ScalableTarget", scalable(scaling.min.max(1), scaling.max));
        resources.insert("ScaleOnCpu", scale_on_cpu(owner, scaling.target_cpu));
    }
    let mut out = json!({
        "AWSTemplateFormatVersion": "2010-09-09",
        "Description": format!("sypctl instance {} ({})", owner.name, owner.uid),
        "Resources": resources,
        // ARNs and not full names: an emulator drops all outputs when it lacks one of them; CloudWatch's dimensions are their tails
        "Outputs": {
            "Endpoint": { "Value": format!("https://{}", site.domain) },
            "LoadBalancerDns": { "Value": get("LoadBalancer", "DNSName") },
            "LoadBalancerArn": { "Value": reference("LoadBalancer") },
            "TargetGroupArn": { "Value": reference("TargetGroup") },
            "ClusterName": { "Value": reference("Cluster") },
            "ServiceName": { "Value": get("Service", "Name") },
            "TaskDefinitionArn": { "Value": reference("TaskDefinition") },
        },
    });
    let digest = hex::encode(&Sha256::digest(out.to_string())[..8]);
    out["Metadata"] = json!({ TEMPLATE: digest });
    (out.to_string(), digest)
}

fn reference(what: &str) -> Value {
    json!({ "Ref": what })
}

fn get(what: &str, attribute: &str) -> Value {
    json!({ "Fn::GetAtt": [what, attribute] })
}

fn log_group(owner: &Owner) -> Value {
    json!({
        "Type": "AWS::Logs::LogGroup",
        "DeletionPolicy": "Delete",
        "UpdateReplacePolicy": "Delete",
        "Properties": { "LogGroupName": names::logs(owner), "RetentionInDays": LOG_DAYS, "Tags": tags(owner) },
    })
}

/// For the agent that starts a task (images, lines, secrets of this instance). The app itself gets no role at all.
fn role(owner: &Owner, site: &Site) -> Value {
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

fn front_group(owner: &Owner, site: &Site) -> Value {
    let from = |port: u16, why: &str| json!({ "IpProtocol": "tcp", "FromPort": port, "ToPort": port, "CidrIp": "0.0.0.0/0", "Description": why });
    json!({
        "Type": "AWS::EC2::SecurityGroup",
        "Properties": {
            "GroupDescription": format!("{} load balancer", names::stack(owner)),
            "VpcId": site.vpc,
            "SecurityGroupIngress": [from(443, "https"), from(80, "sent on to https")],
            "Tags": tags(owner),
        },
    })
}

/// App and gate share a network namespace, so an app that listens on all addresses is behind this group alone.
fn task_group(owner: &Owner, site: &Site) -> Value {
    json!({
        "Type": "AWS::EC2::SecurityGroup",
        "Properties": {
            "GroupDescription": format!("{} task; only the gate port and only from the load balancer", names::stack(owner)),
            "VpcId": site.vpc,
            "SecurityGroupIngress": [{
                "IpProtocol": "tcp", "FromPort": TRAFFIC, "ToPort": TRAFFIC,
                "SourceSecurityGroupId": get("AlbSecurityGroup", "GroupId"),
                "Description": "gate from load balancer",
            }],
            "Tags": tags(owner),
        },
    })
}

fn load_balancer(owner: &Owner, site: &Site) -> Value {
    let attribute = |key: &str, value: &str| json!({ "Key": key, "Value": value });
    json!({
        "Type": "AWS::ElasticLoadBalancingV2::LoadBalancer",
        "Properties": {
            // named: the names that CloudFormation makes keep too little of the stack's for a policy by name
            "Name": names::stack(owner),
            "Type": "application",
            "Scheme": "internet-facing",
            "IpAddressType": "ipv4",
            "Subnets": site.subnets,
            "SecurityGroups": [get("AlbSecurityGroup", "GroupId")],
            "LoadBalancerAttributes": [
                attribute("deletion_protection.enabled", "false"),
                attribute("routing.http.drop_invalid_header_fields.enabled", "true"),
                attribute("idle_timeout.timeout_seconds", "120"),
            ],
            "Tags": tags(owner),
        },
    })
}

fn target_group(owner: &Owner, site: &Site) -> Value {
    json!({
        "Type": "AWS::ElasticLoadBalancingV2::TargetGroup",
        "Properties": {
            "Name": names::stack(owner),
            "VpcId": site.vpc,
            "TargetType": "ip",
            "Protocol": "HTTP",
            "Port": TRAFFIC,
            "HealthCheckProtocol": "HTTP",
            "HealthCheckPath": "/_syp/health",
            "HealthCheckIntervalSeconds": 5,
            "HealthCheckTimeoutSeconds": 3,
            "HealthyThresholdCount": 2,
            "UnhealthyThresholdCount": 3,
            "Matcher": { "HttpCode": "200" },
            "TargetGroupAttributes": [
                { "Key": "deregistration_delay.timeout_seconds", "Value": DEREGISTER_S.to_string() },
            ],
            "Tags": tags(owner),
        },
    })
}

fn listener(site: &Site) -> Value {
    json!({
        "Type": "AWS::ElasticLoadBalancingV2::Listener",
        "Properties": {
            "LoadBalancerArn": reference("LoadBalancer"),
            "Port": 443,
            "Protocol": "HTTPS",
            "SslPolicy": "ELBSecurityPolicy-TLS13-1-2-2021-06",
            "Certificates": [{ "CertificateArn": site.certificate }],
            "DefaultActions": [{ "Type": "forward", "TargetGroupArn": reference("TargetGroup") }],
        },
    })
}

fn redirect() -> Value {
    json!({
        "Type": "AWS::ElasticLoadBalancingV2::Listener",
        "Properties": {
            "LoadBalancerArn": reference("LoadBalancer"),
            "Port": 80,
            "Protocol": "HTTP",
            "DefaultActions": [{
                "Type": "redirect",
                "RedirectConfig": { "Protocol": "HTTPS", "Port": "443", "StatusCode": "HTTP_301" },
            }],
        },
    })
}

fn record(site: &Site) -> Value {
    json!({
        "Type": "AWS::Route53::RecordSet",
        "Properties": {
            "HostedZoneId": site.zone,
            "Name": site.domain,
            "Type": "A",
            "AliasTarget": {
                "DNSName": get("LoadBalancer", "DNSName"),
                "HostedZoneId": get("LoadBalancer", "CanonicalHostedZoneID"),
            },
        },
    })
}

fn cluster(owner: &Owner) -> Value {
    json!({
        "Type": "AWS::ECS::Cluster",
        "Properties": {
            // by name, so that its tasks can be looked at before the stack says its outputs
            "ClusterName": names::stack(owner),
            // enabled, AWS would make a log group of its own beside the stack, which nobody removes
            "ClusterSettings": [{ "Name": "containerInsights", "Value": "disabled" }],
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

fn task(owner: &Owner, spec: &InstanceSpec, site: &Site) -> Value {
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

fn service(owner: &Owner, spec: &InstanceSpec, site: &Site) -> Value {
    let mut out = json!({
        "Type": "AWS::ECS::Service",
        "DependsOn": ["HttpsListener"],
        "Properties": {
            "ServiceName": names::stack(owner),
            "Cluster": reference("Cluster"),
            "LaunchType": "FARGATE",
            "TaskDefinition": reference("TaskDefinition"),
            "HealthCheckGracePeriodSeconds": 60,
            "EnableECSManagedTags": true,
            "PropagateTags": "SERVICE",
            "DeploymentConfiguration": {
                "MinimumHealthyPercent": 100,
                "MaximumPercent": 200,
                // minutes and not hours until a revision that does not start is taken back
                "DeploymentCircuitBreaker": { "Enable": true, "Rollback": true },
            },
            "NetworkConfiguration": {
                "AwsvpcConfiguration": {
                    "AssignPublicIp": if site.public_ip { "ENABLED" } else { "DISABLED" },
                    "Subnets": site.subnets,
                    "SecurityGroups": [get("TaskSecurityGroup", "GroupId")],
                },
            },
            "LoadBalancers": [
                { "ContainerName": "gate", "ContainerPort": TRAFFIC, "TargetGroupArn": reference("TargetGroup") },
            ],
            "Tags": tags(owner),
        },
    });
    // where AWS chooses how many, an update that said a number would bring it back to that
    if !scaling::is_elastic(spec) {
        out["Properties"]["DesiredCount"] = scaling::range(spec).0.into();
    }
    out
}

fn scalable(min: i32, max: i32) -> Value {
    json!({
        "Type": "AWS::ApplicationAutoScaling::ScalableTarget",
        "Properties": {
            "ServiceNamespace": "ecs",
            "ScalableDimension": "ecs:service:DesiredCount",
            "ResourceId": { "Fn::Sub": "service/${Cluster}/${Service.Name}" },
            "MinCapacity": min,
            "MaxCapacity": max,
        },
    })
}

fn scale_on_cpu(owner: &Owner, target_cpu: i32) -> Value {
    json!({
        "Type": "AWS::ApplicationAutoScaling::ScalingPolicy",
        "Properties": {
            "PolicyName": format!("{}-cpu", names::stack(owner)),
            "PolicyType": "TargetTrackingScaling",
            "ScalingTargetId": reference("ScalableTarget"),
            "TargetTrackingScalingPolicyConfiguration": {
                "TargetValue": if target_cpu > 0 { target_cpu } else { 70 },
                "ScaleInCooldown": 120,
                "ScaleOutCooldown": 30,
                "PredefinedMetricSpecification": { "PredefinedMetricType": "ECSServiceAverageCPUUtilization" },
            },
        },
    })
}

#[cfg(test)]
mod policy_tests;
#[cfg(test)]
mod tests;
