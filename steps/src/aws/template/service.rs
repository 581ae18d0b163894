//! What keeps tasks running: cluster, service, who may come to them, and how many there are.
use super::{Site, get, reference, tags};
use crate::aws::names::{self, TRAFFIC};
use serde_json::{Value, json};
use syp_engine::{scaling, step::Owner};
use syp_proto::v1::InstanceSpec;

pub(super) fn cluster(owner: &Owner) -> Value {
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

/// App and gate share a network namespace, so an app that listens on all addresses is behind this group alone.
pub(super) fn task_group(owner: &Owner, site: &Site) -> Value {
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

pub(super) fn service(owner: &Owner, spec: &InstanceSpec, site: &Site) -> Value {
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

pub(super) fn scalable(min: i32, max: i32) -> Value {
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

pub(super) fn scale_on_cpu(owner: &Owner, target_cpu: i32) -> Value {
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
