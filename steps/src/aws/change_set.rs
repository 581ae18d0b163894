//! What AWS itself says an update would do: a change set that nobody executes.
//!
//! Source: CloudFormation API reference, `CreateChangeSet`, `DescribeChangeSet`.
use super::{
    client::{code, failed, words},
    stack::{Stacks, Wanted, tags},
};
use aws_sdk_cloudformation::{
    operation::describe_change_set::DescribeChangeSetOutput,
    types::{self as sdk, Capability, ChangeAction, ChangeSetStatus, ChangeSetType, Replacement},
};
use std::fmt::Write as _;
use syp_engine::failure::{Class, failure};
use syp_proto::journal::Failure;

/// Looks at one that is being made: at three seconds each more than a minute.
const LOOKS: usize = 25;
/// Pages of changes; a stack of ours has fewer resources than fit on one.
const PAGES: usize = 10;

/// What happens to a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// It comes.
    Adds,
    /// It goes.
    Removes,
    /// It is changed where it is.
    Changes,
    /// Another takes its place.
    Replaces,
    /// That is known only when it is done.
    MayReplace,
}

/// One resource that an update touches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// In which way.
    pub how: How,
    /// Logical id.
    pub logical: String,
    /// `AWS::ECS::Service`, ...
    pub kind: String,
    /// `Properties`, `Tags`, ...
    pub scope: Vec<String>,
}

/// One for this stack, by this name.
#[derive(Clone, Copy)]
struct Ask<'a> {
    id: &'a str,
    name: &'a str,
}

// === impl Stacks ===

impl Stacks {
    /// What an update to this template would do to the stack with this ARN. It is asked, and nothing is done. `name`: of this
    /// question alone, two may be asked at once.
    ///
    /// # Errors
    /// AWS': also what it has against the template.
    pub async fn preview(&self, id: &str, name: &str, w: &Wanted<'_>) -> Result<Vec<Change>, Failure> {
        let ask = Ask { id, name };
        let told = self.changes(&ask, w).await;
        // one that stays behind is deleted with its stack
        self.forget(&ask).await;
        Ok(told?.unwrap_or_default())
    }

    /// Has it made, and reads it; `None`: AWS finds nothing to change.
    async fn changes(&self, ask: &Ask<'_>, w: &Wanted<'_>) -> Result<Option<Vec<Change>>, Failure> {
        let role = Some(self.role.clone()).filter(|r| !r.is_empty());
        let create = self.client.create_change_set().stack_name(ask.id).change_set_name(ask.name);
        let made = create
            .change_set_type(ChangeSetType::Update)
            .template_body(w.template)
            .set_role_arn(role)
            .set_tags(Some(tags(w)))
            .capabilities(Capability::CapabilityIam)
            .client_token(ask.name)
            .send()
            .await;
        let set = match made {
            // by an attempt whose answer was lost
            Err(e) if code(&e) == "AlreadyExistsException" => ask.name.to_owned(),
            made => {
                let made = made.map_err(|e| failed("cloudformation:CreateChangeSet", &e))?;
                made.id().unwrap_or(ask.name).to_owned()
            }
        };
        for _ in 0..LOOKS {
            tokio::time::sleep(self.pause).await;
            let said = self.page(ask, &set, None).await?;
            let why = said.status_reason().unwrap_or_default();
            match said.status() {
                Some(ChangeSetStatus::CreateComplete) => return self.read(ask, &set, said).await.map(Some),
                Some(ChangeSetStatus::Failed) if is_empty(why) => return Ok(None),
                Some(ChangeSetStatus::Failed) => return Err(refused(why)),
                _ => {}
            }
        }
        let what = "AWS is still working out what would change";
        Err(failure(Class::Transient, "PROVIDER_BUSY", what, "ask again in a minute"))
    }

    async fn page(
        &self,
        ask: &Ask<'_>,
        set: &str,
        next: Option<String>,
    ) -> Result<DescribeChangeSetOutput, Failure> {
        let describe = self.client.describe_change_set().stack_name(ask.id).change_set_name(set);
        let said = describe.set_next_token(next).send().await;
        said.map_err(|e| failed("cloudformation:DescribeChangeSet", &e))
    }

    async fn read(
        &self,
        ask: &Ask<'_>,
        set: &str,
        mut said: DescribeChangeSetOutput,
    ) -> Result<Vec<Change>, Failure> {
        let mut out = Vec::new();
        for _ in 0..PAGES {
            out.extend(said.changes().iter().filter_map(sdk::Change::resource_change).map(change));
            let Some(next) = said.next_token().map(str::to_owned) else { break };
            said = self.page(ask, set, Some(next)).await?;
        }
        Ok(out)
    }

    async fn forget(&self, ask: &Ask<'_>) {
        let delete = self.client.delete_change_set().stack_name(ask.id).change_set_name(ask.name);
        if let Err(e) = delete.send().await {
            tracing::debug!(stack = ask.id, "a change set stays until its stack goes: {}", words(&e));
        }
    }
}

/// AWS calls a change set without changes a failed one, and says so in words alone.
fn is_empty(why: &str) -> bool {
    let why = why.to_lowercase();
    ["didn't contain changes", "no updates are to be performed"].iter().any(|w| why.contains(w))
}

fn refused(why: &str) -> Failure {
    failure(
        Class::Terminal,
        "STACK_FAILED",
        format!("AWS would refuse the change: {why}"),
        "the message is AWS' own: change what it names, then try again",
    )
}

fn change(c: &sdk::ResourceChange) -> Change {
    let how = match (c.action(), c.replacement()) {
        (Some(ChangeAction::Add), _) => How::Adds,
        (Some(ChangeAction::Remove), _) => How::Removes,
        (_, Some(Replacement::True)) => How::Replaces,
        (_, Some(Replacement::Conditional)) => How::MayReplace,
        _ => How::Changes,
    };
    let text = |s: Option<&str>| s.unwrap_or_default().to_owned();
    Change {
        how,
        logical: text(c.logical_resource_id()),
        kind: text(c.resource_type()),
        scope: c.scope().iter().map(|s| s.as_str().to_owned()).collect(),
    }
}

/// As people read it, a line each, what is replaced first.
pub fn told(mut all: Vec<Change>) -> String {
    all.sort_by_key(|c| (!matches!(c.how, How::Replaces | How::MayReplace), c.logical.clone()));
    let mut out = String::new();
    for c in &all {
        let how = match c.how {
            How::Adds => "adds",
            How::Removes => "removes",
            How::Changes => "changes",
            How::Replaces => "replaces",
            How::MayReplace => "may replace",
        };
        let scope = if c.scope.is_empty() { String::new() } else { format!(": {}", c.scope.join(", ")) };
        let _ = writeln!(out, "AWS {how:<11} {} ({}){scope}", c.logical, c.kind);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_replaced_is_told_first() {
        let of = |how, logical: &str| Change {
            how,
            logical: logical.into(),
            kind: "AWS::X".into(),
            scope: vec!["Properties".into()],
        };
        let all = vec![of(How::Changes, "Service"), of(How::Adds, "Alarm"), of(How::Replaces, "Task")];
        let said = told(all);
        let lines: Vec<_> = said.lines().collect();
        assert_eq!(lines[0], "AWS replaces    Task (AWS::X): Properties");
        assert_eq!(lines[1], "AWS adds        Alarm (AWS::X): Properties");
        assert_eq!(lines[2], "AWS changes     Service (AWS::X): Properties");
        assert_eq!(told(vec![]), "");
    }

    #[test]
    fn a_change_set_without_changes_is_known_by_its_words() {
        assert!(is_empty("The submitted information didn't contain changes. Submit different information."));
        assert!(is_empty("No updates are to be performed."));
        assert!(!is_empty("Properties validation failed for resource Service"));
    }
}
