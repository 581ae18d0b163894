//! Which rights to change things are missing: each is tried by a call that AWS looks at rights for and then refuses, or that is about
//! nothing. None of them makes, changes or removes anything.
use super::{client::failed, clients::Clients};
use syp_engine::id::InstanceId;
use syp_proto::journal::Failure;

/// A template that is none, for emulators too: AWS says so once it has looked at the rights.
const NONE: &str = "not a template";

/// Those that an instance needs, as far as they can be tried: `secretsmanager:CreateSecret` has no call that makes nothing.
pub(super) async fn tried(c: &Clients, role: &str) -> Vec<Result<(), Failure>> {
    // nothing is called so, and nothing else is either
    let id = InstanceId::random();
    let (stack, secret) = (format!("sypctl-check-{id}"), format!("sypctl/check-{id}/none"));
    let (stacks, secrets) = (&c.stacks, &c.secrets);
    let create = stacks.create_stack().stack_name(&stack).role_arn(role).template_body(NONE);
    let update = stacks.update_stack().stack_name(&stack).role_arn(role).template_body(NONE);
    let set = stacks.create_change_set().stack_name(&stack).change_set_name("check").role_arn(role);
    let put = secrets.put_secret_value().secret_id(&secret).secret_string(NONE);
    let tag = aws_sdk_secretsmanager::types::Tag::builder().key("check").value("check").build();
    let (create, update, delete, set, put, tagged, gone) = tokio::join!(
        create.send(),
        update.send(),
        stacks.delete_stack().stack_name(&stack).send(),
        set.template_body(NONE).send(),
        put.send(),
        secrets.tag_resource().secret_id(&secret).tags(tag).send(),
        secrets.delete_secret().secret_id(&secret).force_delete_without_recovery(true).send(),
    );
    let of = |said: Result<(), Failure>| said.or_else(|f| if is_about_nothing(&f) { Ok(()) } else { Err(f) });
    [
        create.map(drop).map_err(|e| failed("cloudformation:CreateStack", &e)),
        update.map(drop).map_err(|e| failed("cloudformation:UpdateStack", &e)),
        delete.map(drop).map_err(|e| failed("cloudformation:DeleteStack", &e)),
        set.map(drop).map_err(|e| failed("cloudformation:CreateChangeSet", &e)),
        put.map(drop).map_err(|e| failed("secretsmanager:PutSecretValue", &e)),
        tagged.map(drop).map_err(|e| failed("secretsmanager:TagResource", &e)),
        gone.map(drop).map_err(|e| failed("secretsmanager:DeleteSecret", &e)),
    ]
    .into_iter()
    .map(of)
    .collect()
}

/// It was allowed, and there was nothing to do it to.
fn is_about_nothing(f: &Failure) -> bool {
    f.reason == "PROVIDER_REFUSED"
}

/// The action that a refusal is about: AWS names another one than was called where that one needs it (`iam:PassRole`).
pub(super) fn action(f: &Failure) -> &str {
    let named = f.message.split_once("not authorized to perform: ").map(|(_, rest)| rest);
    let called = f.message.strip_prefix("AWS refused ");
    let word = named.or(called).and_then(|m| m.split([' ', ',']).next()).unwrap_or(&f.message);
    word.trim_end_matches(':')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aws::stack::emulator_tests::Emulator;
    use syp_engine::failure::{Class, failure};

    #[test]
    fn the_action_that_is_missing_is_named() {
        let of = |words: &str| action(&failure(Class::Terminal, "RIGHTS_MISSING", words, "")).to_owned();
        assert_eq!(of("AWS refused ecs:ListTasks: AccessDenied: no"), "ecs:ListTasks");
        let pass = "AWS refused cloudformation:CreateStack: AccessDenied: User: arn:aws:iam::1:user/x is not authorized to perform: iam:PassRole on resource: arn";
        assert_eq!(of(pass), "iam:PassRole");
    }

    /// On an emulator that evaluates policies: with all of the operator's, and with one that only reads.
    #[tokio::test]
    async fn what_a_policy_does_not_give_is_found_without_a_change() {
        let Some(emulator) = Emulator::ministack(true).await else { return };
        let (full, reader) = emulator.users().await;
        let role = "arn:aws:iam::000000000000:role/sypctl/sypctl-cloudformation";
        let all = Box::pin(tried(&emulator.clients(&full), role)).await;
        assert!(all.iter().all(Result::is_ok), "{all:?}");
        let refused = Box::pin(tried(&emulator.clients(&reader), role)).await;
        let missing: Vec<_> = refused.iter().filter_map(|r| r.as_ref().err()).map(action).collect();
        assert_eq!(missing.len(), 7, "{refused:?}");
        assert!(missing.contains(&"cloudformation:CreateStack"), "{missing:?}");
        assert!(missing.contains(&"secretsmanager:PutSecretValue"), "{missing:?}");
        let root =
            emulator.clients(&aws_credential_types::Credentials::new("test", "test", None, None, "test"));
        let stacks = root.stacks.list_stacks().send().await.unwrap();
        let made = stacks.stack_summaries().iter().filter_map(|s| s.stack_name());
        assert_eq!(made.filter(|n| n.starts_with("sypctl-check")).collect::<Vec<_>>(), Vec::<&str>::new());
    }
}
