//! What of a stack is no longer as its template says, because somebody changed it by hand. AWS takes from seconds to minutes to find out,
//! reads each resource with the caller's rights, and compares only what the template says.
//!
//! Source: CloudFormation API reference, `DetectStackDrift`, `DescribeStackDriftDetectionStatus`, `DescribeStackResourceDrifts`.
use super::{
    client::{code, failed, words},
    stack::Stacks,
};
use aws_sdk_cloudformation::types::{
    StackDriftDetectionStatus, StackDriftStatus, StackResourceDrift, StackResourceDriftStatus as Status,
};
use syp_engine::failure::{Class, failure};
use syp_proto::journal::Failure;

/// Looks at a detection that goes on: at three seconds each two minutes.
const LOOKS: usize = 40;
const PAGES: usize = 10;
/// Letters of a value that are told.
const LETTERS: usize = 80;

// === impl Stacks ===

impl Stacks {
    /// What differs from the template, a line each.
    ///
    /// # Errors
    /// `PROVIDER_BUSY` when it takes too long, `RIGHTS_MISSING` and others of AWS'.
    pub async fn drift(&self, id: &str) -> Result<Vec<String>, Failure> {
        let mut detection = None;
        for _ in 0..LOOKS {
            match &detection {
                None => match self.client.detect_stack_drift().stack_name(id).send().await {
                    Ok(said) => detection = said.stack_drift_detection_id().map(str::to_owned),
                    // somebody else has asked: one at a time
                    Err(e) if code(&e) == "ValidationError" && words(&e).contains("in progress") => {}
                    Err(e) => return Err(failed("cloudformation:DetectStackDrift", &e)),
                },
                Some(of) => {
                    let ask = self.client.describe_stack_drift_detection_status();
                    let said = ask.stack_drift_detection_id(of).send().await;
                    let said =
                        said.map_err(|e| failed("cloudformation:DescribeStackDriftDetectionStatus", &e))?;
                    let why = said.detection_status_reason().unwrap_or_default();
                    let in_sync = said.stack_drift_status() == Some(&StackDriftStatus::InSync);
                    let drifted = said.stack_drift_status() == Some(&StackDriftStatus::Drifted);
                    match said.detection_status() {
                        Some(StackDriftDetectionStatus::DetectionComplete) if in_sync => return Ok(vec![]),
                        // also what only a task definition is said to be: see `told`
                        Some(StackDriftDetectionStatus::DetectionComplete) if drifted => {
                            return self.drifted(id).await;
                        }
                        Some(
                            StackDriftDetectionStatus::DetectionComplete
                            | StackDriftDetectionStatus::DetectionFailed,
                        ) => {
                            let mut found = self.drifted(id).await?;
                            if found.is_empty() {
                                return Err(unseen(why));
                            }
                            found.push(format!("not all of it could be compared: {why}"));
                            return Ok(found);
                        }
                        _ => {}
                    }
                }
            }
            tokio::time::sleep(self.pause).await;
        }
        let what = "AWS is still comparing the stack with its template";
        Err(failure(Class::Transient, "PROVIDER_BUSY", what, "ask again in a minute"))
    }

    async fn drifted(&self, id: &str) -> Result<Vec<String>, Failure> {
        let (mut out, mut page) = (Vec::new(), None);
        for _ in 0..PAGES {
            let ask = self.client.describe_stack_resource_drifts().stack_name(id).set_next_token(page);
            let ask = ask
                .stack_resource_drift_status_filters(Status::Modified)
                .stack_resource_drift_status_filters(Status::Deleted);
            let said =
                ask.send().await.map_err(|e| failed("cloudformation:DescribeStackResourceDrifts", &e))?;
            out.extend(said.stack_resource_drifts().iter().flat_map(told));
            page = said.next_token().map(str::to_owned);
            if page.is_none() {
                break;
            }
        }
        Ok(out)
    }
}

/// Nothing differs of what could be looked at; that says nothing of the rest.
fn unseen(why: &str) -> Failure {
    failure(
        Class::Terminal,
        "PROVIDER_REFUSED",
        format!("AWS could not compare all of the stack with its template: {why}"),
        "ask again; where it names a right, have an administrator deploy bootstrap.yaml again, which has those that are needed",
    )
}

fn told(d: &StackResourceDrift) -> Vec<String> {
    let logical = d.logical_resource_id().unwrap_or_default();
    if d.stack_resource_drift_status() == Some(&Status::Deleted) {
        return vec![format!("{logical} is gone")];
    }
    // a revision of a task definition can't be changed by anybody, and AWS takes some of its own defaults for changes
    // (cloudformation-coverage-roadmap #1455)
    if d.resource_type() == Some("AWS::ECS::TaskDefinition") {
        return vec![];
    }
    let short = |v: Option<&str>| {
        let v = v.unwrap_or_default();
        let cut: String = v.chars().take(LETTERS).collect();
        match (cut.is_empty(), cut.len() < v.len()) {
            (true, _) => "nothing".to_owned(),
            (_, true) => format!("{cut}..."),
            _ => cut,
        }
    };
    let all = d.property_differences().iter().map(|p| {
        let path = p.property_path().unwrap_or_default();
        format!("{logical}{path} is {}, not {}", short(p.actual_value()), short(p.expected_value()))
    });
    let all: Vec<_> = all.collect();
    if all.is_empty() { vec![format!("{logical} was changed")] } else { all }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_sdk_cloudformation::types::PropertyDifference;

    #[test]
    fn what_was_changed_is_told_with_both_values_and_cut_where_it_is_long() {
        let of = |status| {
            StackResourceDrift::builder().logical_resource_id("Rules").stack_resource_drift_status(status)
        };
        assert_eq!(told(&of(Status::Deleted).build()), ["Rules is gone"]);
        assert_eq!(told(&of(Status::Modified).build()), ["Rules was changed"]);
        let long = "x".repeat(200);
        let difference = PropertyDifference::builder()
            .property_path("/SecurityGroupIngress/0/FromPort")
            .expected_value("8080")
            .actual_value(&long)
            .build();
        let said = told(&of(Status::Modified).property_differences(difference).build());
        assert_eq!(
            said,
            [format!("Rules/SecurityGroupIngress/0/FromPort is {}..., not 8080", "x".repeat(80))]
        );
    }
}
