#!/usr/bin/env python3
"""Holds every example under schemas/examples against its schema.

examples/NAME/accepted/*.json must satisfy NAME.schema.json, examples/NAME/rejected/*.json must not. A text that is not
JSON, or that names a member twice in one object, satisfies no schema. The decoders of the package read the same files in
their tests, so that schema and decoder cannot drift apart.
"""

import json
import pathlib
import sys
import warnings

SCHEMAS = pathlib.Path(__file__).resolve().parent.parent / "schemas"


def unique(pairs):
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a name is given twice in one object")
    return members


def refuse(constant):
    raise ValueError(f"{constant} is not JSON")


def load(path):
    text = path.read_bytes().decode("utf-8")
    return json.loads(text, object_pairs_hook=unique, parse_constant=refuse)


def validator_of(jsonschema, schema, schemas):
    """A validator that finds other schemas by the names of their files."""
    try:
        import referencing
    except ImportError:
        # Versions of jsonschema before 4.18. They take every reference for an address, which has to begin as one.
        base = "file:///schemas/"
        store = {base + name: contents for name, contents in schemas.items()}
        return jsonschema.Draft202012Validator(schema, resolver=jsonschema.RefResolver(base, schema, store=store))
    resources = [(name, referencing.Resource.from_contents(contents)) for name, contents in schemas.items()]
    return jsonschema.Draft202012Validator(schema, registry=referencing.Registry().with_resources(resources))


def verdict(validator, path):
    """The first complaint about an example, or None."""
    try:
        document = load(path)
    except ValueError as error:
        return f"not JSON: {error}"
    errors = sorted(validator.iter_errors(document), key=lambda error: list(map(str, error.absolute_path)))
    if not errors:
        return None
    where = "/".join(map(str, errors[0].absolute_path)) or "the document"
    return f"{where}: {errors[0].message}"


def main():
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            import jsonschema
    except ImportError:
        print("schemas: python3-jsonschema is not installed")
        print("0 passed, 0 failed, 1 skipped")
        return 0
    passed, failures = 0, []
    folders = {path.name for path in (SCHEMAS / "examples").iterdir() if path.is_dir()}
    schemas = {path.name.removesuffix(".schema.json"): path for path in SCHEMAS.glob("*.schema.json")}
    for name in sorted(folders ^ set(schemas)):
        failures.append(f"{name}: has examples without a schema, or a schema without examples")
    texts = {path.name: load(path) for path in schemas.values()}
    for name in sorted(folders & set(schemas)):
        schema = texts[schemas[name].name]
        try:
            jsonschema.Draft202012Validator.check_schema(schema)
        except jsonschema.SchemaError as error:
            failures.append(f"{schemas[name].name}: {error.message}")
            continue
        passed += 1
        validator = validator_of(jsonschema, schema, texts)
        for expected in ("accepted", "rejected"):
            examples = sorted((SCHEMAS / "examples" / name / expected).glob("*.json"))
            if not examples:
                failures.append(f"{name}: nothing is {expected}")
            for path in examples:
                complaint = verdict(validator, path)
                if (complaint is None) == (expected == "accepted"):
                    passed += 1
                else:
                    failures.append(f"{path.relative_to(SCHEMAS)}: {complaint or 'satisfies the schema'}")
    for failure in failures:
        print(f"FAILED {failure}")
    print(f"{passed} passed, {len(failures)} failed, 0 skipped")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
