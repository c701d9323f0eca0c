"""A trained adapter on its base, as PEFT and transformers themselves load both."""

import warnings
from pathlib import Path
from typing import Any

from lorasweep.core.logs import quiet_libraries
from lorasweep.core.spec import ModelSpec
from lorasweep.models.load import read_model
from lorasweep.models.tokenizer import load_tokenizer


def load_peft_model(spec: ModelSpec, adapter: Path, device: str) -> tuple[Any, Any]:
    """Return a `PeftModel` in evaluation mode, and its base's tokenizer.

    Raises:
        ModelError: the base cannot be loaded.
    """
    quiet_libraries()
    from peft import PeftModel

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT asks transformers by a name that is deprecated
        model = PeftModel.from_pretrained(read_model(spec, device), str(adapter))
    return model.eval(), load_tokenizer(spec)
