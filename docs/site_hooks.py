"""What the site needs beside mkdocs: formulas that no script has to typeset, links, the papers."""

import html
import pathlib
import re

import latex2mathml.converter

_FORMULA = re.compile(r'<(span|div) class="arithmatex">\s*\\[(\[](.*?)\\[)\]]\s*</\1>', re.DOTALL)
_PAPERS = pathlib.Path(__file__).parents[1] / "sigprop" / "papers.bib"


def on_page_content(html: str, **_) -> str:
    """Every formula as MathML, which browsers typeset themselves, without a network."""
    return _FORMULA.sub(_as_mathml, html)


def _as_mathml(found: re.Match) -> str:
    display = "block" if found[1] == "div" else "inline"
    return latex2mathml.converter.convert(html.unescape(found[2]), display=display)


def on_page_markdown(markdown: str, **_) -> str:
    """The list of papers in the place of its mark; the site has the notebooks inside."""
    return markdown.replace("<!-- papers -->", _papers()).replace("](../notebooks/", "](notebooks/")


def _papers() -> str:
    entries = re.findall(r"^@\w+{(.*?)^}", _PAPERS.read_text(), re.MULTILINE | re.DOTALL)
    return "\n".join(sorted(map(_line, entries)))


def _line(entry: str) -> str:
    fields = {k: re.sub(r"[{}]", "", v) for k, v in re.findall(r"(\w+) = {(.*)}", entry)}
    doi = fields.get("doi")
    link = f" [doi:{doi}](https://doi.org/{doi})" if doi else ""
    authors = fields["author"].replace(" and ", "; ").replace('\\"u', "ü").replace("\\'e", "é")
    where = fields.get("journal", fields.get("booktitle", "preprint"))
    names = fields["keywords"].replace(", ", "`, `")
    return (
        f"- {authors} ({fields['year']}). *{fields['title']}*. {where}.{link}<br>Behind `{names}`."
    )
