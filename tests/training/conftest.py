import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # tests here share the tiny model of test_training
