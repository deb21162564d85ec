"""A `gh` whose GitHub is the file $FAKE_GITHUB: a list of comments, each with `id`, `user` and `body`.

The token is one of GitHub Actions, or of $FAKE_GITHUB_USER. The network can't be reached from tests, so this is the one
thing that they fake; `--jq` is run by jq. Each call's method and path are added to the file beside it with the suffix
`.calls`. A method that $FAKE_GITHUB_REFUSES names is refused, as GitHub refuses a token without the permission;
GraphQL is a method here.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path


def query(document: object, filter: str) -> int:
    return subprocess.run(["jq", "-r", filter], input=json.dumps(document), text=True, check=False).returncode


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=["api"])
    parser.add_argument("path")
    parser.add_argument("--method", default="GET")
    parser.add_argument("--field", action="append", default=[])
    parser.add_argument("--raw-field")
    parser.add_argument("--jq")
    parser.add_argument("--paginate", action="store_true")
    parser.add_argument("--silent", action="store_true")
    asked = parser.parse_args()
    github = Path(os.environ["FAKE_GITHUB"])
    login = os.environ.get("FAKE_GITHUB_USER", "github-actions[bot]")
    if asked.path == "graphql":
        asked.method = "GRAPHQL"
    with github.with_suffix(".calls").open("a") as file:
        file.write(f"{asked.method} {asked.path} {os.environ['GH_HOST']}\n")
    if os.environ.get("FAKE_GITHUB_REFUSES") == asked.method:
        sys.stderr.write("gh: Resource not accessible by integration (HTTP 403)\n")
        return 1
    if asked.method == "GRAPHQL":
        assert asked.raw_field == "query={viewer{login}}"
        return query({"data": {"viewer": {"login": login}}}, asked.jq)
    comments = json.loads(github.read_text())
    if asked.method == "GET":
        assert asked.paginate
        return query(comments, asked.jq)
    ((key, _, file_name),) = (field.partition("=@") for field in asked.field)
    assert key == "body"
    body = Path(file_name).read_text()
    assert len(body) <= 65_536
    if asked.method == "POST":
        assert asked.path == "repos/octo/eyes/issues/7/comments"
        user = {"login": login, "type": "Bot" if login.endswith("[bot]") else "User"}
        comments.append({"id": 1000 + len(comments), "user": user, "body": body})
    else:
        (comment,) = (each for each in comments if asked.path == f"repos/octo/eyes/issues/comments/{each['id']}")
        comment["body"] = body
    github.write_text(json.dumps(comments))
    return 0


sys.exit(main())
