"""What the Hub asks of a model card's metadata, as its documentation states it."""

from __future__ import annotations

import re

import yaml


# those of the models that this project and its tests prune
LICENSES = {"apache-2.0", "bigcode-openrail-m", "bsd", "gemma", "llama3.1", "mit", "other"}
REPOSITORY = re.compile(r"(?!.*(--|\.\.))[\w.-]{1,96}/[\w.-]{1,96}")
RELATIONS = {"adapter", "finetune", "merge", "quantized"}


def card_errors(content: str) -> list[str]:
    """What is wrong with the metadata of a card; empty if nothing is."""
    match = re.match(r"---\n(.*?)\n---\n", content, re.DOTALL)
    if match is None:
        return ["there is no metadata"]
    try:
        data = yaml.safe_load(match[1])
    except yaml.YAMLError as error:
        return [f"the metadata is not YAML: {error}"]
    if not isinstance(data, dict):
        return ["the metadata is not an object"]
    errors = [f'"{name}" is empty' for name, value in data.items() if value in (None, "", [], {})]
    license = data.get("license")
    if license is not None and license not in LICENSES:
        errors.append(f'"license" must be one of the known identifiers, not {license!r}')
    if license == "other" and not (data.get("license_name") and data.get("license_link")):
        errors.append('"license: other" needs "license_name" and "license_link"')
    for name in ("license_link",):
        if name in data and not str(data[name]).startswith(("https://", "LICENSE")):
            errors.append(f'"{name}" must be a link')
    for name in ("base_model", "datasets"):
        values = data.get(name, [])
        for value in values if isinstance(values, list) else [values]:
            if not isinstance(value, str) or not REPOSITORY.fullmatch(value):
                errors.append(f'"{name}" must be the id of a repository, not {value!r}')
    if "base_model_relation" in data and data["base_model_relation"] not in RELATIONS:
        errors.append('"base_model_relation" must be one of adapter, finetune, merge, quantized')
    languages = data.get("language", [])
    for language in languages if isinstance(languages, list) else [languages]:
        if not re.fullmatch(r"[a-z]{2,3}|code|multilingual|[a-z]{2,3}-[A-Za-z]+", str(language)):
            errors.append(f'"language" must be an ISO 639 code, not {language!r}')
    tags = data.get("tags", [])
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        errors.append('"tags" must be a list of texts')
    return errors + [error for model in data.get("model-index", []) for error in index_errors(model)]


def index_errors(model: dict) -> list[str]:
    """What is wrong with one model of a model-index."""
    if not isinstance(model.get("name"), str) or not isinstance(model.get("results"), list) or not model["results"]:
        return ["a model of model-index needs a name and results"]
    errors = []
    for result in model["results"]:
        if not isinstance(result.get("task", {}).get("type"), str):
            errors.append("a result needs task.type")
        dataset = result.get("dataset", {})
        if not isinstance(dataset.get("type"), str) or not isinstance(dataset.get("name"), str):
            errors.append("a result needs dataset.type and dataset.name")
        metrics = result.get("metrics", [])
        if not metrics:
            errors.append("a result needs metrics")
        for metric in metrics:
            if not isinstance(metric.get("type"), str) or not isinstance(metric.get("value"), (int, float, str)):
                errors.append("a metric needs type and value")
    return errors
