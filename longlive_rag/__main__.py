"""`python -m longlive_rag` runs `longlive-rag`."""

from longlive_rag.cli.main import main

if __name__ == "__main__":
    main()
