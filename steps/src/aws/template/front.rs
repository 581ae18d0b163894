//! What callers meet: the load balancer, its listeners, and the name that leads to it.
use super::{Site, get, reference, tags};
use crate::aws::names::{self, TRAFFIC};
use serde_json::{Value, json};
use syp_engine::step::Owner;

/// A task that is told to go finishes what it has; the load balancer sends nothing new.
const DEREGISTER_S: u32 = 30;

pub(super) fn group(owner: &Owner, site: &Site) -> Value {
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

pub(super) fn load_balancer(owner: &Owner, site: &Site) -> Value {
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

pub(super) fn target_group(owner: &Owner, site: &Site) -> Value {
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

pub(super) fn listener(site: &Site) -> Value {
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

pub(super) fn redirect() -> Value {
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

pub(super) fn record(site: &Site) -> Value {
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
