"""`huterox deploy`, `undeploy`, `models`."""

import argparse

from huterox.cli.connecting import connected
from huterox.cli.parser import Verbs
from huterox.cli.render import age, column, megabytes, print_json, print_rows

_COLUMNS = (
    column("NAME", "name"),
    column("VERSION", "version"),
    column("ALGORITHM", "algorithm"),
    column("RUNTIME", "runtime"),
    column("DEVICE", "device"),
    column("HOST", "host_mb", megabytes, right=True),
    column("GPU", "gpu_mb", megabytes, right=True),
    column("SERVICES", "services", right=True),
    column("CONTAINERS", "containers", right=True),
    column("DEPLOYED", "deployed_at", age, right=True),
    column("ENTRY", "entry"),
)


def add(verbs: Verbs) -> None:
    """Declare the verbs of this file."""
    deploy = verbs.add_client(
        "deploy",
        run_deploy,
        help="make a model known to the switchboard, or replace it",
        examples="""huterox deploy models/vad.toml
                    huterox deploy models/vad.toml -o json""",
    )
    deploy.add_argument("model", metavar="MODEL.toml", help="the model file; paths in it start at its directory")
    undeploy = verbs.add_client(
        "undeploy", run_undeploy, help="forget a model and close its containers", examples="huterox undeploy vad"
    )
    undeploy.add_argument("name", metavar="NAME", help="the model")
    undeploy.add_argument("--force", action="store_true", help="even while virtual containers point to it")
    verbs.add_client("models", run_models, help="list the models", examples="huterox models -o json")


def run_deploy(arguments: argparse.Namespace) -> None:
    """`huterox deploy MODEL.toml`"""
    from huterox.modelfile import read_model

    model = read_model(arguments.model)  # a wrong file is told even where no switchboard runs
    with connected(arguments) as client:
        result = client.deploy(model)
    if arguments.output == "json":
        print_json(result)
    else:
        again = ", which replaces what was deployed under this name" if result.get("replaced") else ""
        print(f"deployed {result['name']} version {result['version']}{again}")


def run_undeploy(arguments: argparse.Namespace) -> None:
    """`huterox undeploy NAME`"""
    with connected(arguments) as client:
        result = client.undeploy(arguments.name, force=arguments.force)
    if arguments.output == "json":
        print_json(result)
    else:
        print(f"undeployed {result['name']}")


def run_models(arguments: argparse.Namespace) -> None:
    """`huterox models`"""
    with connected(arguments) as client:
        rows = client.models()
    print_rows(_COLUMNS, rows, arguments.output, nothing="no models; deploy one with `huterox deploy MODEL.toml`")
