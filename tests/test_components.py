"""Each component is whole: a section of the settings, a module, a row in the docs."""

from pathlib import Path

from optimum_flab.commands.prune import PruneCommand
from optimum_flab.pruning.components import COMPONENTS
from optimum_flab.settings.pruning import COMPONENTS as SECTIONS


def test_every_section_has_a_component_and_every_component_a_row_in_the_docs():
    assert [component.settings for component in COMPONENTS] == list(SECTIONS)
    table = Path(__file__).parent.parent.joinpath("docs", "components.md").read_text(encoding="utf-8")
    flags = {flag.setting: flag.name for flag in PruneCommand.FLAGS}
    for section in SECTIONS:
        assert f"| `{flags[section.size]}` | " in table
