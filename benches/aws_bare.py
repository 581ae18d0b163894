"""What sypctl does at AWS, with the bare SDK: no engine, no journal, no proof.

aws_bare.py take URL REGION FILE     keeps the template of the one living stack, and the values of its secrets
aws_bare.py life URL REGION FILE     makes the same, waits until it is complete and answers 401, takes it away; prints the two times, ms
"""
import http.client
import json
import ssl
import sys
import time

import boto3

what, url, region, file = sys.argv[1:]
account = dict(endpoint_url=url, region_name=region, aws_access_key_id="test", aws_secret_access_key="test")
stacks, secrets = boto3.client("cloudformation", **account), boto3.client("secretsmanager", **account)
NAME = "sypctl-bare"
# as often as the engine looks
PAUSE = 3


def take():
    (stack,) = [s for s in stacks.describe_stacks()["Stacks"] if s["StackStatus"].endswith("_COMPLETE")]
    template = stacks.get_template(StackName=stack["StackId"])["TemplateBody"]
    text = template if isinstance(template, str) else json.dumps(template)
    values = {
        s["ARN"]: secrets.get_secret_value(SecretId=s["ARN"])["SecretString"]
        for s in secrets.list_secrets()["SecretList"]
        if s["ARN"] in text
    }
    tags = stack["Tags"]
    domain = next(o["OutputValue"] for o in stack["Outputs"] if o["OutputKey"] == "Endpoint").removeprefix("https://")
    json.dump(dict(text=text, values=values, tags=tags, domain=domain), open(file, "w"))


def status():
    return stacks.describe_stacks(StackName=NAME)["Stacks"][0]


def life():
    kept = json.load(open(file))
    begun = time.monotonic()
    text, made = kept["text"], []
    for n, (arn, value) in enumerate(kept["values"].items()):
        new = secrets.create_secret(Name=f"sypctl/bare/{n}", SecretString=value)["ARN"]
        text, made = text.replace(arn, new), made + [new]
    stacks.create_stack(StackName=NAME, TemplateBody=text, Tags=kept["tags"], Capabilities=["CAPABILITY_IAM"])
    while (now := status())["StackStatus"] == "CREATE_IN_PROGRESS":
        time.sleep(PAUSE)
    if now["StackStatus"] != "CREATE_COMPLETE":
        sys.exit(f"{now['StackStatus']}: {stacks.describe_stack_events(StackName=NAME)['StackEvents'][:8]}")
    address = next(o["OutputValue"] for o in now["Outputs"] if o["OutputKey"] == "LoadBalancerDns")
    answer = asked(address, kept["domain"])
    if answer != 401:
        sys.exit(f"it answers {answer}")
    up = time.monotonic() - begun
    begun = time.monotonic()
    stacks.delete_stack(StackName=NAME)
    try:
        while status()["StackStatus"] != "DELETE_COMPLETE":
            time.sleep(PAUSE)
    except stacks.exceptions.ClientError as e:
        if "does not exist" not in str(e):
            raise
    for arn in made:
        secrets.delete_secret(SecretId=arn, ForceDeleteWithoutRecovery=True)
    print(round(up * 1000), round((time.monotonic() - begun) * 1000))


def asked(address, domain):
    class Named(http.client.HTTPSConnection):
        def connect(self):
            http.client.HTTPConnection.connect(self)
            # whether its certificate is good, the suites ask
            trusting = ssl._create_unverified_context()
            self.sock = trusting.wrap_socket(self.sock, server_hostname=domain)

    at = Named(address, 443, timeout=10)
    at.request("GET", "/", headers={"Host": domain})
    return at.getresponse().status


{"take": take, "life": life}[what]()
