"""Refusals of a configuration that does not fit the schema, in the words of the file."""

from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from typing import Any

from pydantic import ValidationError

from pipeline.config import Config
from pipeline.image_size import IMAGE_SIZE
from pipeline.refusals import Place, Refusal

# Cures for the kinds of refusal that pydantic itself reports.
CURES = {
    "missing": "add it",
    "float_type": "write a number; YAML reads 5e-4 as text, so write 0.0005 or 5.0e-4",
    "finite_number": "write a finite number",
    "int_type": "write a whole number",
    "int_from_float": "write a whole number",
    "bool_type": "write true or false",
    "string_type": "write text, in quotes where YAML would read a number",
    "tuple_type": "write a list, such as [1, 2]",
    "dict_type": "write keys with values, such as {name: value}",
    "model_type": "write keys with values, such as {name: value}",
    "too_short": "an empty list gives an empty grid: name at least one",
    "string_pattern_mismatch": "use letters, digits, '_', '.', '+' and '-'",
}
# Union tags: a network's class is chosen by its family.
FAMILY = ("union_tag_invalid", "union_tag_not_found")


def schema_refusals(error: ValidationError, settings: dict[str, Any]) -> Iterator[Refusal]:
    """Yield a refusal for each value of ``settings`` that pydantic refused."""
    details = error.errors()
    places = [detail["loc"] for detail in details]
    for detail in details:
        loc = detail["loc"]
        if detail["type"] == "too_short" and any(
            len(other) > len(loc) and other[: len(loc)] == loc for other in places
        ):
            continue  # the file has items; they were refused, so that none is left
        place = _real_place(loc, settings)
        problem = f"{detail['input']!r}: {detail['msg'].removeprefix('Value error, ')}"
        cure = CURES.get(detail["type"], "write a value that the schema allows")
        if detail["type"] in FAMILY:
            yield _family_refusal(place, detail["input"])
            continue
        if detail["type"] == "missing":
            problem = f"required, but not there: {place[-1]}"
        elif detail["type"] == "extra_forbidden":
            problem = f"unknown key {place[-1]!r} (value {detail['input']!r})"
            cure = _key_cure(place, settings)
        elif detail["type"] == "literal_error":
            cure = f"choose {detail['ctx']['expected']}"
        elif place == ("results",) and detail["type"] == "string_pattern_mismatch":
            problem = f"{detail['input']!r}: a path with {{, }} or a control character"
            cure = "name another folder; Snakemake reads {name} in a path as a wildcard"
        yield Refusal(place, problem, cure)


def unknown(place: Place, value: str, kind: str, known: Iterable[str]) -> Refusal:
    """Return the refusal of a name that is none of those ``known``."""
    names = list(known)
    return Refusal(
        place,
        f"unknown {kind} {value!r}",
        f"{did_you_mean(value, names)}known: {', '.join(names) or 'none'}",
    )


def did_you_mean(value: str, names: Iterable[str]) -> str:
    """Return a question that names the name nearest to ``value``; empty if none is near."""
    near = get_close_matches(value, list(names), n=1)
    return f"did you mean {near[0]!r}? " if near else ""


def _family_refusal(place: Place, given: Any) -> Refusal:
    families = [*IMAGE_SIZE, "module:function"]
    if isinstance(given, dict) and "family" in given:
        return unknown((*place, "family"), str(given["family"]), "family", families)
    return Refusal(
        place,
        f"{given!r}: a network without a family",
        f"write {{family: ...}} with one of: {', '.join(families)}",
    )


def _key_cure(place: Place, settings: dict[str, Any]) -> str:
    known = sorted(_known_keys(place[:-1], settings))
    return (
        f"{did_you_mean(str(place[-1]), known)}remove it, or correct its spelling; "
        f"known: {', '.join(known)}"
    )


def _known_keys(place: Place, settings: Any) -> set[str]:
    """Return the keys that the mapping at ``place`` may have, from the JSON Schema."""
    schema = Config.model_json_schema()
    nodes = [schema]
    for part in place:
        settings = settings[part]
        nodes = [
            inner
            for node in nodes
            for inner in _resolved(_inside(node, part), schema["$defs"], settings)
        ]
    return {key for node in nodes for key in node.get("properties", ())}


def _inside(node: dict[str, Any], part: str | int) -> dict[str, Any]:
    """Return the schema of one item of a list, or of one value of a mapping."""
    if isinstance(part, int):
        return node.get("items", {})
    values = list(node.get("patternProperties", {}).values())
    return node.get("properties", {}).get(part) or (values[0] if values else {})


def _resolved(
    node: dict[str, Any], definitions: dict[str, Any], value: Any
) -> Iterator[dict[str, Any]]:
    """Yield the schemas that ``node`` allows for ``value``; of networks the one of its family."""
    if "$ref" in node:
        node = definitions[node["$ref"].rpartition("/")[2]]
    choices = node.get("anyOf", node.get("oneOf"))
    if choices is None:
        given = value.get("family") if isinstance(value, dict) else None
        family = node.get("properties", {}).get("family", {"const": given})
        # The class of a user's network names no family.
        if family.get("const", given if given not in IMAGE_SIZE else None) == given:
            yield node
        return
    for choice in choices:
        yield from _resolved(choice, definitions, value)


def _real_place(loc: Iterable[str | int], settings: Any) -> Place:
    """Drop from a pydantic location the tags of unions, which stand nowhere in the file."""
    place: list[str | int] = []
    parts = list(loc)
    for index, part in enumerate(parts):
        inside = isinstance(settings, dict) and part in settings
        inside |= isinstance(settings, list) and isinstance(part, int) and part < len(settings)
        if inside:
            settings = settings[part]
        elif index < len(parts) - 1:
            continue
        place.append(part)
    return tuple(place)
