"""``{results} split-mnist generative-replay ...``: rows of a results table, from the saved figures at every build."""

from pathlib import Path

from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective
from sphinx.util.nodes import nodes

from reverie.experiments.published import TABLES
from reverie.experiments.tables import read_results, rows_markdown


class ResultsTable(SphinxDirective):
    required_arguments = 1
    optional_arguments = 20

    def run(self):
        table, *entries = self.arguments
        file = Path(self.env.srcdir) / "results" / f"{table}.json"
        self.env.note_dependency(str(file))
        lines = rows_markdown(TABLES[table], read_results(TABLES[table], file), entries)
        holder = nodes.container()
        self.state.nested_parse(StringList(lines, str(file)), self.content_offset, holder)
        return holder.children


def setup(app):
    app.add_directive("results", ResultsTable)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
