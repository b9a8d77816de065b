from tests.fagan_hf.training import conftest as of_training

pictures = of_training.pictures
classes = of_training.classes
