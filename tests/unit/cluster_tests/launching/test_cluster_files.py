"""Each file for clusters is valid for its tool, starts a packaged sweep, and contains no secret."""

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import typer.main
import yaml

from orchestrator.cli import app
from search_spaces.loading.loader import load_sweep
from tests.support.places import ROOT

FOLDER = ROOT / "cluster"
FILES = sorted([*FOLDER.glob("*.yaml"), *FOLDER.glob("*.sh"), FOLDER / "README.md"])
SECRET_NAME = re.compile(r"PASSWORD|TOKEN|SECRET", re.IGNORECASE)


def documents(name):
    return [document for document in yaml.safe_load_all((FOLDER / name).read_text()) if document]


def ray_job():
    return next(document for document in documents("rayjob.yaml") if document["kind"] == "RayJob")["spec"]


def containers():
    groups = [ray_job()["rayClusterSpec"]["headGroupSpec"], *ray_job()["rayClusterSpec"]["workerGroupSpecs"]]
    return [container for group in groups for container in group["template"]["spec"]["containers"]]


def parsed(command):
    """A command line as the `lethe` command understands it, without running it."""
    program, name, *arguments = shlex.split(command)
    assert program == "lethe"
    known = typer.main.get_command(app).commands[name]
    return known.make_context(name, arguments).params


def commands_in_readme():
    text = re.sub(r"\\\n", " ", (FOLDER / "README.md").read_text())
    return re.findall(r"lethe (?:run|submit) search_spaces/[^#`\n]*", text)


def test_ray_cluster_is_valid_for_ray_up():
    import jsonschema
    import ray.autoscaler
    from ray.autoscaler._private.util import prepare_config, validate_config

    (config,) = documents("ray_cluster.yaml")
    schema = json.loads(Path(ray.autoscaler.__file__).with_name("ray-schema.json").read_text())
    validator = jsonschema.validators.validator_for(schema)(schema)
    assert [error.message for error in validator.iter_errors(config)] == []
    validate_config(prepare_config(config))


def test_ray_cluster_has_spot_gpu_workers_that_scale():
    (config,) = documents("ray_cluster.yaml")
    workers = config["available_node_types"]["gpu"]
    assert workers["resources"]["GPU"] > 0
    assert workers["min_workers"] < workers["max_workers"] <= config["max_workers"]
    assert workers["node_config"]["InstanceMarketOptions"]["MarketType"] == "spot"
    head = config["available_node_types"][config["head_node_type"]]
    assert "InstanceMarketOptions" not in head["node_config"], "a lost spot head takes the driver with it"


@pytest.mark.parametrize("commands", ["head_start_ray_commands", "worker_start_ray_commands"])
def test_ray_cluster_starts_every_node_with_token_authentication(commands):
    (config,) = documents("ray_cluster.yaml")
    starts = [command for command in config[commands] if "ray start" in command]
    assert starts and all("RAY_AUTH_MODE=token ray start" in command for command in starts)
    assert all(
        subprocess.run(["bash", "-n", "-c", command], check=False).returncode == 0
        for command in config[commands]
    )


def test_rayjob_has_the_fields_that_kuberay_requires():
    job = ray_job()
    assert job["backoffLimit"] > 0
    assert job["shutdownAfterJobFinishes"] is True
    cluster = job["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert all(group["replicas"] == group["minReplicas"] for group in cluster["workerGroupSpecs"])
    assert all({"name", "image", "resources"} <= set(container) for container in containers())


def test_rayjob_keeps_sweeps_on_a_claim_that_all_nodes_share():
    claim = next(
        document for document in documents("rayjob.yaml") if document["kind"] == "PersistentVolumeClaim"
    )
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    for container in containers():
        storage = next(
            variable["value"] for variable in container["env"] if variable["name"] == "LETHE_STORAGE"
        )
        assert storage in [mount["mountPath"] for mount in container["volumeMounts"]]


def test_rayjob_runs_the_version_of_ray_that_is_installed():
    import ray

    assert ray_job()["rayClusterSpec"]["rayVersion"] == ray.__version__


def test_rayjob_takes_secrets_from_secrets():
    secret = [
        variable
        for container in containers()
        for variable in container["env"]
        if SECRET_NAME.search(variable["name"])
    ]
    assert secret
    assert all("secretKeyRef" in variable["valueFrom"] and "value" not in variable for variable in secret)
    assert "runtimeEnvYAML" not in ray_job(), (
        "variables of a runtime environment are visible in lists of jobs"
    )


def test_rayjob_starts_a_sweep_that_ships():
    file = Path(parsed(ray_job()["entrypoint"])["file"])
    assert load_sweep(file).name == file.stem


def test_slurm_script_is_a_script():
    assert subprocess.run(["bash", "-n", str(FOLDER / "slurm.sh")], check=False).returncode == 0


def test_slurm_script_can_be_requeued_and_makes_its_own_token():
    script = (FOLDER / "slurm.sh").read_text()
    assert "#SBATCH --requeue" in script and "scontrol requeue" in script
    assert "RAY_AUTH_MODE=token" in script
    assert "/dev/urandom" in script and not re.search(r"(ray start|srun).*TOKEN", script)


def test_slurm_script_starts_a_sweep_that_ships():
    example = re.search(r"sbatch \S+slurm.sh (.*)", (FOLDER / "slurm.sh").read_text())
    file = FOLDER.parent / parsed(f"lethe run {example[1]}")["file"]
    assert load_sweep(file).name == file.stem


def test_mlflow_server_has_no_default_password_and_listens_on_this_machine():
    (config,) = documents("mlflow_postgres.yaml")
    for service in config["services"].values():
        for name, value in service["environment"].items():
            if SECRET_NAME.search(name):
                assert re.fullmatch(r"\$\{[A-Z_]+:\?.*\}", value), name
    assert config["services"]["mlflow"]["ports"] == ["${MLFLOW_BIND:-127.0.0.1}:5000:5000"]
    assert "ports" not in config["services"]["postgres"]
    assert "--app-name basic-auth" in config["services"]["mlflow"]["command"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_file_holds_a_secret(path):
    text = path.read_text()
    # user:password in a URI, unless the password is a variable; a long literal where a secret is expected;
    # known kinds of keys.
    assert not re.search(r"://[^/\s:@]+:(?!\$\{)[^/\s@]+@", text)
    assert not re.search(
        r"(?i)(password|token|secret)\w*\s*[=:]\s*[\"']?(?!https?:)[A-Za-z0-9+/_-]{16,}", text
    )
    assert not re.search(r"AKIA[0-9A-Z]{16}|hf_[A-Za-z0-9]{20,}|-----BEGIN", text)


def test_commands_of_the_readme_are_understood():
    commands = commands_in_readme()
    assert len(commands) >= 3
    for command in commands:
        file = parsed(command.replace("URL", "http://127.0.0.1:8265"))["file"]
        assert load_sweep(FOLDER.parent / file).space


def test_readme_names_every_file():
    readme = (FOLDER / "README.md").read_text()
    assert all(path.name in readme for path in FILES if path.name != "README.md")
