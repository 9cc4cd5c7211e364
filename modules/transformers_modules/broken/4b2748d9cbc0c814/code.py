from transformers import PreTrainedConfig


class InventConfig(PreTrainedConfig):
    model_type = "inventlm"
