# Every command of the project; `make help` lists them. Needs CPython 3.11-3.13 and make, no more.
#   PYTHON=python3.12   the Python to build .venv with
#   PORT=9000 MODEL=... for `make serve`
#   FUZZ=100            how much longer `make fuzz` asks than `make test` does
#   CHAOS=100           how often `make chaos` kills the server; the real one a fifth as often

PYTHON ?= python3
PORT   ?=
MODEL  ?=
FUZZ   ?= 20
CHAOS  ?= 25
BIN    := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev serve test fuzz chaos soak check audit wheel docs lock pipeline bench micro doctor clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Make .venv with the engine that fits this machine (every other target does it first)
	@$(PYTHON) -m server.install

setup-dev: ## The same, with the tools for tests and checks
	@$(PYTHON) -m server.install --dev

serve: setup ## Serve the embedded model on 127.0.0.1:8765; PORT= and MODEL= override
	@exec $(BIN)/senryu serve $(if $(PORT),--port $(PORT)) $(if $(MODEL),--model "$(MODEL)")

doctor: setup ## Check device, versions, model and a real generation
	@exec $(BIN)/senryu doctor

test: setup-dev ## Run the whole test suite; ARGS="-k device" narrows it
	@exec $(BIN)/python -m pytest $(ARGS)

fuzz: setup-dev ## Ask the server 20,000 odd things, new ones each time; FUZZ= asks more or less
	@FUZZ=$(FUZZ) exec $(BIN)/python -m pytest -m fuzz -s $(ARGS)

chaos: setup-dev ## Kill server and engine again and again under work, and check the books; CHAOS= rounds
	@CHAOS=$(CHAOS) exec $(BIN)/python -m pytest tests/journeys/test_chaos.py -s $(ARGS)

check: setup-dev ## Formatting, lint, types, and known weaknesses of dependencies
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(MAKE) --no-print-directory audit

audit: setup-dev ## Look for known weaknesses of what the locks name
	@$(BIN)/python locks/audit.py

wheel: setup-dev ## Build the wheel and the source distribution into dist/
	@rm -rf build dist
	@$(BIN)/python -m build --no-isolation --quiet
	@ls dist

pipeline: setup ## Distil, quantize, serve and measure a student of the embedded model; 25 minutes
	@exec $(BIN)/python -m senryu.benches.pipeline $(ARGS)

bench: setup ## Measure tokens a second over HTTP; ARGS="--url URL --out DIR"
	@exec $(BIN)/senryu bench $(ARGS)

micro: setup ## Measure what the front end costs per streamed token
	@exec $(BIN)/python -m senryu.benches.micro $(ARGS)

soak: setup ## Keep 500 streams of the scripted engine running for five minutes, and judge them
	@exec $(BIN)/python -m senryu.benches.soak $(ARGS)

docs: setup ## Write the pages of docs/ that are made from the code
	@$(BIN)/python docs/generate.py

lock: setup ## Resolve locks/*.txt anew; the network and half a minute
	@UV=$(BIN)/uv sh locks/make

clean: ## Remove .venv and everything that was built
	@rm -rf .venv .types build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find server distill quant benches tests -name __pycache__ -prune -exec rm -rf {} +
