//! The Price List of the region eu-west-1, as far as it is asked for here, with products beside those that are meant. Pages are short.
use serde_json::{Map, Value, json};

const REGION: &str = "eu-west-1";
const PAGE: usize = 3;

/// Service, family, use, and price by amount.
type Row = (&'static str, &'static str, &'static str, &'static [(&'static str, &'static str)]);

const ROWS: [Row; 17] = [
    ("AmazonECS", "Compute", "EU-Fargate-Windows-vCPU-Hours:perCPU", &[("0", "0.0465520000")]),
    ("AmazonECS", "Compute", "EU-Fargate-vCPU-Hours:perCPU", &[("0", "0.0404800000")]),
    ("AmazonECS", "Compute", "EU-SpotUsage-Fargate-vCPU-Hours:perCPU", &[("0", "0.0123000000")]),
    ("AmazonECS", "Compute", "EU-Fargate-GB-Hours", &[("0", "0.0044450000")]),
    ("AmazonECS", "Compute", "EU-Fargate-ARM-vCPU-Hours:perCPU", &[("0", "0.0323800000")]),
    ("AmazonECS", "Compute", "EU-Fargate-ARM-GB-Hours", &[("0", "0.0035600000")]),
    ("AmazonVPC", "VpcEndpoint", "EU-VpcEndpoint-Hours", &[("0", "0.0110000000")]),
    ("AmazonVPC", "VPC Public IPv4 Address", "EU-PublicIPv4:InUseAddress", &[("0", "0.0050000000")]),
    ("AWSELB", "Load Balancer-Network", "EU-LoadBalancerUsage", &[("0", "0.0260000000")]),
    ("AWSELB", "Load Balancer-Application", "EU-LoadBalancerUsage", &[("0", "0.0252000000")]),
    ("AWSELB", "Load Balancer-Application", "EU-LCUUsage", &[("0", "0.0080000000")]),
    ("AWSELB", "Load Balancer-Network", "EU-LCUUsage", &[("0", "0.0060000000")]),
    (
        "AmazonCloudWatch",
        "Alarm",
        "EU-CW:AlarmMonitorUsage",
        &[("0", "0.0000000000"), ("10", "0.1000000000")],
    ),
    ("AmazonCloudWatch", "Alarm", "EU-CW:HighResAlarmMonitorUsage", &[("0", "0.3000000000")]),
    ("AmazonCloudWatch", "Data Payload", "EU-DataProcessing-Bytes", &[("0", "0.5700000000")]),
    ("AWSSecretsManager", "Secret", "EU-AWSSecretsManagerAPIRequest", &[("0", "0.0000050000")]),
    ("AWSSecretsManager", "Secret", "EU-AWSSecretsManager-Secrets", &[("0", "0.4000000000")]),
];

/// Answers `GetProducts` by service and region.
pub fn get(asked: &Value) -> Value {
    let service = asked["ServiceCode"].as_str().unwrap_or_default();
    let filters = asked["Filters"].as_array().into_iter().flatten();
    let here = filters.into_iter().all(|f| f["Field"] == "regionCode" && f["Value"] == REGION);
    let from: usize = asked["NextToken"].as_str().and_then(|t| t.parse().ok()).unwrap_or(0);
    let all: Vec<&Row> = ROWS.iter().filter(|r| here && r.0 == service).collect();
    let page: Vec<String> = all.iter().skip(from).take(PAGE).map(|r| product(r).to_string()).collect();
    let mut out = json!({ "FormatVersion": "aws_v1", "PriceList": page });
    if from + PAGE < all.len() {
        out["NextToken"] = (from + PAGE).to_string().into();
    }
    out
}

fn product((service, family, usage, steps): &Row) -> Value {
    let dimensions: Map<String, Value> = steps
        .iter()
        .map(|(from, usd)| {
            let name = format!("SKU.JRTCKXETXF.{from}");
            (
                name,
                json!({ "unit": "x", "beginRange": from, "endRange": "Inf", "pricePerUnit": { "USD": usd } }),
            )
        })
        .collect();
    json!({
        "product": { "productFamily": family, "sku": "SKU",
            "attributes": { "regionCode": REGION, "servicecode": service, "usagetype": usage } },
        "serviceCode": service, "version": "20261101000000", "publicationDate": "2026-11-01T00:00:00Z",
        "terms": { "OnDemand": { "SKU.JRTCKXETXF": { "priceDimensions": dimensions, "sku": "SKU", "termAttributes": {} } } },
    })
}
