"""python-saga-orchestrator under the same load, in an environment of its own; nothing of ours.

python old_library.py URL SAGAS LANES
"""

import asyncio
import sys
from pathlib import Path
from uuid import UUID, uuid4

from loguru import logger
from pydantic import BaseModel
from saga_orchestrator import BaseStep, SagaBuilder, SagaOrchestrator, SagaStateMixin
from sqlalchemy import ForeignKey, text
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

sys.path.insert(0, str(Path(__file__).parent))
from load import measure


class Base(DeclarativeBase):
    pass


try:  # the newer version keeps its history in a table of its own
    from saga_orchestrator import SagaStepHistoryMixin
except ImportError:

    class OldSaga(Base, SagaStateMixin):
        __tablename__ = "old_saga"

    MODELS = {"model_class": OldSaga}
else:

    class OldHistory(Base, SagaStepHistoryMixin):
        __tablename__ = "new_saga_history"
        saga_id: Mapped[UUID] = mapped_column(ForeignKey("new_saga.id"))

    class NewSaga(Base, SagaStateMixin):
        __tablename__ = "new_saga"
        step_history: Mapped[list[OldHistory]] = relationship(cascade="all, delete-orphan")

    MODELS = {"model_class": NewSaga, "history_model_class": OldHistory}


class Number(BaseModel):
    n: int


class Count(BaseStep[Number, Number]):
    # The newer version passes keywords of its own.
    async def execute(self, inp: Number, **_: object) -> Number:
        return Number(n=inp.n + 1)

    async def compensate(self, inp: Number, out: Number, **_: object) -> None:
        return None


def no_op_saga():
    builder = SagaBuilder()
    previous = builder.add_step(step=Count(), input_map=lambda ctx: Number(n=ctx.initial_data["n"]))
    for _ in range(2):
        previous = builder.add_step(
            step=Count(), depends_on=previous, input_map=lambda out: Number(n=out.n)
        )
    return builder.build()


async def main(url: str, sagas: int, lanes: int) -> None:
    logger.remove()
    # Each version keeps its types and tables in a schema of its own.
    table = MODELS["model_class"].__tablename__
    schema = f"{table}_library"
    engine = create_async_engine(
        f"postgresql+asyncpg://{url.partition('://')[2]}",
        pool_size=lanes,
        connect_args={"server_settings": {"search_path": schema}},
    )
    async with engine.begin() as connection:
        await connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {schema}"))
        await connection.run_sync(Base.metadata.create_all)
    maker = async_sessionmaker(engine, expire_on_commit=False)
    orchestrator = SagaOrchestrator(session_maker=maker, **MODELS)
    orchestrator.register("no_op", no_op_saga())

    async def one_saga() -> None:
        await orchestrator.start(
            saga_name="no_op", initial_data={"n": 1}, aggregation_id=str(uuid4())
        )

    await measure(one_saga, sagas, lanes)
    async with engine.connect() as connection:
        statuses = await connection.execute(text(f"SELECT DISTINCT status FROM {table}"))
        found = [row[0] for row in statuses]
    await engine.dispose()
    if found != ["COMPLETED"]:
        sys.exit(f"not all sagas were completed: {found}")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
