"""The cluster files are valid where that can be checked without a cluster."""

from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]


def _load(path: str) -> dict:
    return yaml.safe_load((ROOT / path).read_text())


def test_the_cluster_launcher_takes_our_yaml():
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(_load("ray_cluster.yaml")))


def test_a_typo_in_the_cluster_yaml_is_found():
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = _load("ray_cluster.yaml")
    config["available_node_types"]["curation"]["max_worker"] = 3
    with pytest.raises(Exception, match="max_worker"):
        validate_config(prepare_config(config))


def test_instances_are_described_as_aws_wants_them():
    import boto3
    from botocore.validate import ParamValidator

    model = boto3.session.Session().client("ec2", region_name="eu-central-1").meta.service_model
    shape = model.operation_model("RunInstances").input_shape
    kinds = model.shape_for("InstanceType").enum  # pyright: ignore[reportAttributeAccessIssue]
    for name, node in _load("ray_cluster.yaml")["available_node_types"].items():
        report = ParamValidator().validate({**node["node_config"], "MinCount": 1, "MaxCount": 1}, shape)
        assert not report.has_errors(), f"{name}: {report.generate_report()}"
        assert node["node_config"]["InstanceType"] in kinds


def test_the_kubernetes_files_fit_together():
    from importlib.metadata import version

    cluster, job = _load("infra/kuberay/raycluster.yaml"), _load("infra/kuberay/rayjob.yaml")
    assert cluster["spec"]["rayVersion"] == version("ray")
    assert job["spec"]["clusterSelector"]["ray.io/cluster"] == cluster["metadata"]["name"]
    groups = cluster["spec"]["workerGroupSpecs"]
    assert {group["groupName"] for group in groups} == {"curation", "training"}
    for group in groups:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        (container,) = group["template"]["spec"]["containers"]
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        assert mounted <= {volume["name"] for volume in group["template"]["spec"]["volumes"]}


def test_the_job_is_a_command_that_exists(capsys: pytest.CaptureFixture):
    from jobs.cli import main

    words = _load("infra/kuberay/rayjob.yaml")["spec"]["entrypoint"].split()
    assert words[:3] == ["python", "-m", "jobs.cli"]
    assert main([*words[3:], "--dry-run"]) == 0
    assert '"recipe": "vae base"' in capsys.readouterr().out


def test_compose_starts_what_the_documents_name():
    services = _load("infra/compose.yaml")["services"]
    assert set(services) == {"head", "worker", "mlflow", "storage"}
    dockerfile = ROOT / "infra" / services["head"]["build"]["context"] / services["head"]["build"]["dockerfile"]
    assert dockerfile.resolve().is_file()
    for name, service in services.items():
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), f"{name} is reachable from outside"
