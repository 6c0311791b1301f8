"""``{options} learners replay``: the options of an entry as a table, made from its signature at every build."""

from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective
from sphinx.util.nodes import nodes

from reverie.cli import list_command
from reverie.options import signature

TABLES = list_command.TABLES


class OptionsTable(SphinxDirective):
    required_arguments = 2

    def run(self):
        kind, name = self.arguments
        table = TABLES[kind]
        fixed = table.aliases.get(name, {})
        part = table.parts[fixed.get("name", name)]
        lines = ["| option | default | values | what it is |", "|---|---|---|---|"]
        for key, option in signature(part).items():
            default = list_command._default(option, fixed.get(key, option.default))
            cells = (f"`{key}`", f"`{default}`", list_command._type(option), option.description)
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        holder = nodes.container()
        self.state.nested_parse(StringList(lines, f"options of {name}"), self.content_offset, holder)
        return holder.children


def setup(app):
    app.add_directive("options", OptionsTable)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
