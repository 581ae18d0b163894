//! What the templates of instances need of CloudFormation's language: `Ref`, `Fn::GetAtt` and `Fn::Sub`; and how AWS calls what it makes.
use super::{
    Tags,
    world::{Resource, Shared, random},
};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// What references mean in a stack.
pub struct Scope<'a> {
    pub shared: &'a Shared,
    pub stack_name: &'a str,
    pub stack_id: &'a str,
    pub resources: &'a BTreeMap<String, Resource>,
}

// === impl Scope ===

impl Scope<'_> {
    /// With everything in the place of its references.
    pub fn resolve(&self, value: &Value) -> Result<Value, String> {
        match value {
            Value::Array(all) => {
                all.iter().map(|v| self.resolve(v)).collect::<Result<_, _>>().map(Value::Array)
            }
            Value::Object(map) => {
                if let (1, Some((key, of))) = (map.len(), map.iter().next()) {
                    match key.as_str() {
                        "Ref" => return self.reference(text(of)).map(Value::from),
                        "Fn::GetAtt" => {
                            return self.attribute(text(&of[0]), text(&of[1])).map(Value::from);
                        }
                        "Fn::Sub" => return self.substitute(text(of)).map(Value::from),
                        _ => {}
                    }
                }
                let resolved = map.iter().map(|(k, v)| Ok((k.clone(), self.resolve(v)?)));
                resolved.collect::<Result<_, String>>().map(Value::Object)
            }
            other => Ok(other.clone()),
        }
    }

    fn reference(&self, name: &str) -> Result<String, String> {
        Ok(match name {
            "AWS::Region" => self.shared.region.clone(),
            "AWS::AccountId" => self.shared.account.clone(),
            "AWS::Partition" => "aws".to_owned(),
            "AWS::StackName" => self.stack_name.to_owned(),
            "AWS::StackId" => self.stack_id.to_owned(),
            name => {
                let there = self.resources.get(name).map(|r| r.physical.clone());
                there.ok_or_else(|| format!("Unresolved resource dependencies [{name}]"))?
            }
        })
    }

    fn attribute(&self, name: &str, attribute: &str) -> Result<String, String> {
        let resource =
            self.resources.get(name).ok_or_else(|| format!("Unresolved resource dependencies [{name}]"))?;
        let there = resource.attributes.get(attribute).cloned();
        there.ok_or_else(|| {
            format!("Requested attribute {attribute} does not exist in schema for {}", resource.kind)
        })
    }

    fn substitute(&self, form: &str) -> Result<String, String> {
        let mut out = String::new();
        let mut rest = form;
        while let Some((before, after)) = rest.split_once("${") {
            let (name, tail) =
                after.split_once('}').ok_or("Template error: a reference in Fn::Sub has no end")?;
            out.push_str(before);
            out.push_str(&match name.split_once('.') {
                Some((name, attribute)) => self.attribute(name, attribute)?,
                None => self.reference(name)?,
            });
            rest = tail;
        }
        Ok(out + rest)
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Names that a value refers to.
fn names(value: &Value, out: &mut BTreeSet<String>) {
    match value {
        Value::Array(all) => all.iter().for_each(|v| names(v, out)),
        Value::Object(map) => {
            for (key, of) in map {
                match key.as_str() {
                    "Ref" => drop(out.insert(text(of).to_owned())),
                    "Fn::GetAtt" => drop(out.insert(text(&of[0]).to_owned())),
                    "Fn::Sub" => {
                        let all = text(of).split("${").skip(1).filter_map(|p| p.split(['}', '.']).next());
                        out.extend(all.map(str::to_owned));
                    }
                    "DependsOn" => out.extend(listed(of)),
                    _ => names(of, out),
                }
            }
        }
        _ => {}
    }
}

fn listed(value: &Value) -> Vec<String> {
    let all = value.as_array().map_or_else(|| std::slice::from_ref(value), Vec::as_slice);
    all.iter().map(|v| text(v).to_owned()).collect()
}

/// Its resources, each after those that it needs.
pub fn order(template: &Value) -> Result<Vec<String>, String> {
    let all = template["Resources"]
        .as_object()
        .ok_or("Template format error: At least one Resources member must be defined.")?;
    let mut needs: BTreeMap<&String, BTreeSet<String>> = BTreeMap::new();
    for (name, resource) in all {
        let mut of = BTreeSet::new();
        names(resource, &mut of);
        of.retain(|n| all.contains_key(n));
        needs.insert(name, of);
    }
    let mut out: Vec<String> = Vec::new();
    while !needs.is_empty() {
        let next =
            needs.iter().find(|(_, of)| of.iter().all(|n| out.contains(n))).map(|(name, _)| (*name).clone());
        let next = next.ok_or("Circular dependency between resources")?;
        needs.remove(&next);
        out.push(next);
    }
    Ok(out)
}

/// What AWS calls a new resource, and what else it tells of it.
pub fn named(shared: &Shared, stack: &str, logical: &str, kind: &str, properties: &Value) -> (String, Tags) {
    let own = |key: &str| properties[key].as_str().map(str::to_owned);
    let made = || format!("{stack}-{logical}-{}", random(12));
    let elb =
        |what: &str, name: &str| shared.arn("elasticloadbalancing", &format!("{what}/{name}/{}", random(16)));
    let one = |key: &str, value: String| Tags::from([(key.to_owned(), value)]);
    match kind {
        "AWS::ECS::Cluster" => {
            let name = own("ClusterName").unwrap_or_else(made);
            let arn = shared.arn("ecs", &format!("cluster/{name}"));
            (name, one("Arn", arn))
        }
        "AWS::ECS::Service" => {
            let name = own("ServiceName").unwrap_or_else(made);
            let cluster = own("Cluster").unwrap_or_else(|| "default".into());
            (shared.arn("ecs", &format!("service/{cluster}/{name}")), one("Name", name))
        }
        "AWS::ElasticLoadBalancingV2::LoadBalancer" => {
            let name = own("Name").unwrap_or_else(made);
            (elb("loadbalancer/app", &name), one("CanonicalHostedZoneID", "Z35SXDOTRQ7X7K".into()))
        }
        "AWS::ElasticLoadBalancingV2::TargetGroup" => {
            (elb("targetgroup", &own("Name").unwrap_or_else(made)), Tags::new())
        }
        "AWS::ElasticLoadBalancingV2::Listener" => (elb("listener/app", stack), Tags::new()),
        "AWS::EC2::SecurityGroup" => {
            let id = format!("sg-{}", random(17));
            (id.clone(), one("GroupId", id))
        }
        "AWS::IAM::Role" => {
            let name = own("RoleName").unwrap_or_else(made);
            let path = own("Path").unwrap_or_else(|| "/".into());
            let arn = format!("arn:aws:iam::{}:role{path}{name}", shared.account);
            (name, one("Arn", arn))
        }
        "AWS::Logs::LogGroup" => {
            let name = own("LogGroupName").unwrap_or_else(made);
            let arn = shared.arn("logs", &format!("log-group:{name}:*"));
            (name, one("Arn", arn))
        }
        "AWS::Route53::RecordSet" => (own("Name").unwrap_or_else(made), Tags::new()),
        _ => (made(), Tags::new()),
    }
}

/// The ARN by which a resource is known to whoever asks for tags; `None`: it has none.
pub fn tagged_arn(shared: &Shared, r: &Resource) -> Option<String> {
    match r.kind.as_str() {
        "AWS::ECS::Cluster" => r.attributes.get("Arn").cloned(),
        "AWS::EC2::SecurityGroup" => Some(shared.arn("ec2", &format!("security-group/{}", r.physical))),
        "AWS::Logs::LogGroup" => Some(shared.arn("logs", &format!("log-group:{}", r.physical))),
        "AWS::ECS::Service"
        | "AWS::ElasticLoadBalancingV2::LoadBalancer"
        | "AWS::ElasticLoadBalancingV2::TargetGroup" => Some(r.physical.clone()),
        _ => None,
    }
}

/// `[{Key, Value}]`.
pub fn tags(list: &Value) -> Tags {
    let one = |t: &Value| Some((t["Key"].as_str()?.to_owned(), t["Value"].as_str()?.to_owned()));
    list.as_array().into_iter().flatten().filter_map(one).collect()
}

/// The other way, as each service writes it.
pub fn listed_tags(tags: &Tags, key: &str, value: &str) -> Value {
    tags.iter().map(|(k, v)| json!({ key: k, value: v })).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_rendered_has_an_order_in_which_it_can_be_made() {
        for (name, text) in syp_steps::aws::variants::all() {
            let template: Value = serde_json::from_str(&text).unwrap();
            let order = order(&template).unwrap();
            let at = |what: &str| order.iter().position(|n| n == what).unwrap();
            assert_eq!(order.len(), template["Resources"].as_object().unwrap().len(), "{name}");
            assert!(
                at("Service") > at("TaskDefinition") && at("Service") > at("HttpsListener"),
                "{name}: {order:?}"
            );
        }
    }

    #[test]
    fn a_circle_is_refused() {
        let r = |of: &str| json!({ "Type": "X", "Properties": { "A": { "Ref": of } } });
        assert!(order(&json!({ "Resources": { "A": r("B"), "B": r("A") } })).is_err());
    }
}
