"""The OpenAPI description as a page of plain HTML, which needs no script and no other server."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment

PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{{ info.title }}: the video API</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
code { background: #f3f3f3; padding: 0 .2em; } h2 { font-size: 1.1rem; margin-top: 2rem; }
table { border-collapse: collapse; } td, th { text-align: left; padding: .2rem .8rem .2rem 0; vertical-align: top; }
</style>
<h1>{{ info.title }} {{ info.version }}: the video API</h1>
{% for part in info.description.split("\n\n") %}<p>{{ part }}</p>{% endfor %}
<p>For programs: <a href="openapi.json">openapi.json</a>.</p>
{% for route in routes %}
<h2><code>{{ route.method }} {{ route.path }}</code></h2>
<p>{{ route.about }}</p>
{% if route.fields %}<table><tr><th>field</th><th>type</th><th>default</th></tr>
{% for field in route.fields %}<tr><td><code>{{ field.name }}</code></td><td>{{ field.kind }}</td><td>{{ field.default }}</td></tr>
{% endfor %}</table>{% endif %}
{% endfor %}
<h2>Messages</h2>
{% for name, model in models %}
<h2 id="{{ name }}"><code>{{ name }}</code></h2><p>{{ model.about }}</p>
<table>{% for field in model.fields %}<tr><td><code>{{ field.name }}</code></td><td>{{ field.kind }}</td><td>{{ field.default }}</td></tr>
{% endfor %}</table>
{% endfor %}
</html>"""  # noqa: E501
REF = "#/components/schemas/"


def docs_page(openapi: dict[str, Any]) -> str:
    """The page of an OpenAPI description."""
    routes = []
    for path, methods in openapi["paths"].items():
        for method, facts in methods.items():
            fields = [
                _field(each["name"], each["schema"], each.get("required")) for each in facts.get("parameters", ())
            ]
            fields += [
                {"name": "body", "kind": f"{_kind(each['schema'])}, {kind}", "default": ""}
                for kind, each in facts.get("requestBody", {}).get("content", {}).items()
            ]
            routes.append(
                {"method": method.upper(), "path": path, "about": facts.get("description", ""), "fields": fields}
            )
    models = []
    for name, model in openapi["components"]["schemas"].items():
        needed = model.get("required", ())
        fields = [_field(each, part, each in needed) for each, part in model.get("properties", {}).items()]
        models.append((name, {"about": model.get("description", ""), "fields": fields}))
    page = Environment(autoescape=True).from_string(PAGE)
    return page.render(info=openapi["info"], routes=routes, models=models)


def _field(name: str, part: dict[str, Any], needed: bool | None) -> dict[str, str]:
    default = "required" if needed else part.get("default")
    return {"name": name, "kind": _kind(part), "default": "" if default is None else str(default)}


def _kind(part: dict[str, Any]) -> str:
    if "$ref" in part:
        return str(part["$ref"]).removeprefix(REF)
    if "anyOf" in part:
        return " or ".join(_kind(each) for each in part["anyOf"])
    if "enum" in part:
        return ", ".join(map(str, part["enum"]))
    if part.get("type") == "array":
        return f"list of {_kind(part.get('items', {}))}"
    return str(part.get("const", part.get("type", "anything")))
