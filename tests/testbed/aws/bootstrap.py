"""An account as an administrator leaves it: bootstrap.yaml deployed, a user that holds the operator's policy and nothing else, and one
that holds nothing.

bootstrap.py URL BOOTSTRAP: on stdout the access key and its secret of both, a line each.
"""
import sys
import time

import boto3

url, bootstrap = sys.argv[1:]
root = dict(endpoint_url=url, region_name="us-east-1", aws_access_key_id="test", aws_secret_access_key="test")
stacks, iam = boto3.client("cloudformation", **root), boto3.client("iam", **root)
stacks.create_stack(
    StackName="sypctl-bootstrap",
    TemplateBody=open(bootstrap).read(),
    Capabilities=["CAPABILITY_NAMED_IAM"],
)
for _ in range(60):
    stack = stacks.describe_stacks(StackName="sypctl-bootstrap")["Stacks"][0]
    if stack["StackStatus"] == "CREATE_COMPLETE":
        break
    time.sleep(0.5)
else:
    sys.exit(f"the bootstrap is in {stack['StackStatus']}")
policy = next(o["OutputValue"] for o in stack["Outputs"] if o["OutputKey"] == "OperatorPolicyArn")
for name in ("operator", "nobody"):
    iam.create_user(UserName=name)
    if name == "operator":
        iam.attach_user_policy(UserName=name, PolicyArn=policy)
    key = iam.create_access_key(UserName=name)["AccessKey"]
    print(key["AccessKeyId"])
    print(key["SecretAccessKey"])
